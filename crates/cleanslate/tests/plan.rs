//! `cleanslate plan` as a user runs it: the built program, its output and its exit codes.

mod common;

use common::{fixture, run};

#[test]
fn json_has_what_programs_need() {
    let out = run(&["plan", "--host", &fixture("hosts/03-canonical-135-emr-ok.log"), "--format", "json"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let report = out.json();
    assert_eq!(report["schema"], "cleanslate/plan");
    assert_eq!(report["version"], 1);
    assert_eq!(report["pamt_kb"], 1_050_644);
    assert_eq!(report["given_up_bytes"], 0);
    assert_eq!(report["linux"]["result"], "ok");
    assert_eq!(report["linux"]["pamt_kb"], 1_050_644);
    assert_eq!(report["linux"]["equals_log"], true);
    let tdmrs = report["tdmrs"].as_array().unwrap();
    assert_eq!(tdmrs.len(), 5);
    assert_eq!(tdmrs[4]["base"], "0x3080000000");
    assert_eq!(tdmrs[4]["size"], 64u64 << 30);
    assert_eq!(tdmrs[4]["reserved_count"], tdmrs[4]["reserved"].as_array().unwrap().len());
    assert!(report["host"]["assumptions"].as_array().unwrap().iter().any(|a| a["about"] == "memory"));
}

#[test]
fn what_linux_cannot_do() {
    let host = fixture("hosts/02-canonical-135-emr-fail28.log");
    let fit = run(&["plan", "--host", &host, "--format", "json"]);
    assert_eq!(fit.code, 0);
    let report = fit.json();
    assert_eq!(report["result"], "ok");
    assert_eq!(report["linux"]["result"], "-28");
    assert_eq!(report["linux"]["tdmr"]["base"], "0x0");
    assert_eq!(report["linux"]["tdmr"]["end"], "0x80000000");
    assert_eq!((&report["linux"]["needed"], &report["linux"]["allowed"]), (&17.into(), &16.into()));
    assert!(report["linux"]["pamt_kb"].is_null());
    let linux = run(&["plan", "--host", &host, "--layout", "linux"]);
    assert_eq!(linux.code, 1);
    assert!(
        linux.stdout.contains("no layout (-28): TDMR [0x0, 0x80000000): reserved areas exhausted"),
        "{}",
        linux.stdout
    );
}

#[test]
fn people_get_a_table_without_color_in_a_pipe() {
    let out = run(&["plan"]);
    assert_eq!(out.code, 0);
    assert!(!out.stdout.contains('\x1b'), "color in a pipe");
    assert!(out.stdout.contains("[0x100000000, 0x10040000000)    1021 GiB"), "{}", out.stdout);
    assert!(
        out.stdout.contains("Linux     ok: 3 TDMRs, 8396820 KB allocated for PAMT, as in the log\n"),
        "{}",
        out.stdout
    );
    assert!(out.stdout.contains("\nfits: 3 TDMRs of at most 64, 8396820 KB for PAMT, no memory given up\n"));
    assert!(out.stdout.lines().all(|line| line.len() <= 120), "{}", out.stdout);
    assert!(out.stderr.is_empty(), "{}", out.stderr);
}

#[test]
fn a_node_border_is_taken() {
    let host = fixture("hosts/22-intel-tdx-linux-5-256gib.log");
    let without = run(&["plan", "--host", &host, "--layout", "linux"]);
    assert!(without.stdout.contains("--node-border"), "{}", without.stdout);
    let with = run(&["plan", "--host", &host, "--layout", "linux", "--node-border", "258G", "--format", "json"]).json();
    assert_eq!(with["linux"]["equals_log"], true);
    assert_eq!(with["tdmrs"].as_array().unwrap().len(), 5);
    let text = with["host"]["assumptions"].to_string();
    assert!(text.contains("borders given at 0x4080000000"), "{text}");
}

/// No advice that the tool then refuses.
#[test]
fn a_difference_on_a_log_with_numa_rows_is_not_put_down_to_a_border() {
    let log = std::fs::read_to_string(fixture("hosts/22-intel-tdx-linux-5-256gib.log")).unwrap();
    let (host, file) = (fixture("hosts/22-intel-tdx-linux-5-256gib.log"), ["plan", "--host"]);
    let without = run(&[&file[..], &[&host]].concat()).stdout.replace("\n          ", " ");
    assert!(without.contains("does not show; give it with --node-border"), "{without}");
    let rows = "ACPI: SRAT: Node 0 PXM 0 [mem 0x00000000-0x407fffffff]\n";
    let with_rows = common::run_with_input(&["plan", "--host", "-"], format!("{rows}{log}").as_bytes()).stdout;
    assert!(with_rows.contains("the log reports ") && !with_rows.contains("--node-border"), "{with_rows}");
    // A border that is given and does not help is not asked for again.
    let wrong = run(&[&file[..], &[&host, "--node-border", "200G"]].concat()).stdout.replace("\n          ", " ");
    assert!(wrong.contains("given node borders") && !wrong.contains("give it with"), "{wrong}");
}

#[test]
fn what_is_assumed_of_cpus_is_marked_where_it_counts() {
    let log = std::fs::read_to_string(fixture("hosts/01-canonical-385-2tib.log")).unwrap();
    let plan = |lines: &str, more: &[&str]| {
        common::run_with_input(&[&["plan", "--host", "-"], more].concat(), format!("{lines}{log}").as_bytes()).stdout
    };
    let plain = plan("", &[]);
    assert!(plain.contains("  all cores (8 CPUs assumed)\n") && plain.contains("erratum (assumed)\n"), "{plain}");
    // A figure for all cores follows from no number of CPUs.
    assert!(!plan("", &["--bandwidth", "10,100"]).contains("CPUs assumed)"));
    assert!(plan("", &["--bandwidth", "10"]).contains("(8 CPUs assumed)"));
    let intel = "smpboot: CPU0: Intel(R) Xeon(R) Platinum 8480CTDX (family: 0x6, model: 0x8f, stepping: 0x8)\n";
    for count in
        ["smpboot: Allowing 224 CPUs, 0 hotplug CPUs", "CPU topo: Allowing 224 present CPUs plus 0 hotplug CPUs"]
    {
        let known = plan(&format!("{intel}{count}\n"), &[]);
        assert!(known.contains("224 CPUs\n") && known.contains("  all cores\n"), "{known}");
        assert!(known.contains("partial-write erratum\n") && !known.contains("CPUs: not in the log"), "{known}");
    }
    let amd = "smpboot: CPU0: AMD EPYC 9654 96-Core Processor (family: 0x19, model: 0x11, stepping: 0x1)\n";
    let amd = plan(amd, &[]);
    assert!(amd.contains("cpu       Sapphire Rapids (06_8F), has the partial-write erratum (assumed)\n"), "{amd}");
}

#[test]
fn standard_input() {
    let log = std::fs::read(fixture("hosts/03-canonical-135-emr-ok.log")).unwrap();
    let out = common::run_with_input(&["plan", "--host", "-", "--format", "json"], &log);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(out.json()["pamt_kb"], 1_050_644);
}

#[test]
fn a_bandwidth_of_ones_own() {
    let out = run(&["plan", "--bandwidth", "10,100", "--format", "json"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let cost = &out.json()["cost"];
    assert_eq!((&cost["rates"]["one_core"], &cost["rates"]["all_cores"]), (&1e10.into(), &1e11.into()));
    for row in cost["kexec"].as_array().unwrap() {
        let (one, all) = (row["seconds_one_core"].as_f64().unwrap(), row["seconds_all_cores"].as_f64().unwrap());
        assert!((one - row["bytes"].as_f64().unwrap() / 1e10).abs() < 1e-9 && (one / all - 10.0).abs() < 1e-6, "{row}");
    }
    for bad in
        ["0", "-1", "1,0", "nan", "inf", "1,2,3", "", "fast", "1e308", "1e-310", "1,1e308", "1e-4", "100001", "5,4"]
    {
        let argument = format!("--bandwidth={bad}");
        let out = run(&["plan", &argument, "--format", "json"]);
        assert_eq!((out.code, out.stdout.as_str()), (2, ""), "{bad}");
        let rule = if bad == "5,4" {
            "all cores together must be at least as fast as one"
        } else {
            "from \
            0.001 to 100000"
        };
        assert!(out.stderr.contains(rule), "{bad}: {}", out.stderr);
    }
    for border in ["0.001", "100000", "5,5"] {
        let cost = &run(&["plan", "--bandwidth", border, "--format", "json"]).json()["cost"];
        let seconds = cost["kexec"].as_array().unwrap().iter().map(|row| row["seconds_one_core"].as_f64());
        assert!(seconds.into_iter().all(|seconds| seconds.is_some_and(f64::is_finite)), "{border}");
    }
}

#[test]
fn a_picture_on_standard_output_and_in_a_file() {
    let out = run(&["plan", "--svg", "-"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stdout.starts_with("<svg ") && out.stdout.ends_with("</svg>\n"), "{}", out.stdout);
    let path = std::env::temp_dir().join(format!("cleanslate-{}.svg", std::process::id()));
    let both = run(&["plan", "--svg", path.to_str().unwrap()]);
    assert!(both.stdout.contains("fits"), "{}", both.stdout);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), out.stdout);
    std::fs::remove_file(path).unwrap();
}

/// What is printed under "use" is taken by `plan`.
#[test]
fn bench_gives_what_plan_takes() {
    let out = run(&["bench", "--format", "json"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let report = out.json();
    assert_eq!(report["schema"], "cleanslate/bench");
    assert!(report["one_core"].as_f64().unwrap() > 0.0 && report["all_cores"].as_f64().unwrap() > 0.0);
    let words = run(&["bench"]).stdout;
    let (_, command) = words.split_once("cleanslate plan ").expect("how to use it");
    let arguments: Vec<&str> = ["plan"].into_iter().chain(command.split_whitespace()).collect();
    assert_eq!(run(&arguments).code, 0, "{command}");
}

#[test]
fn a_virtual_machine_is_named_before_any_figure() {
    for command in ["plan", "kexec"] {
        let out = run(&[command, "--host", &fixture("field/16-vm-taken-for-a-host.log")]).stdout;
        let second = out.lines().nth(1).unwrap();
        assert!(second.starts_with("note      this is the log of a virtual machine"), "{out}");
    }
}

/// The table of docs/outage.md is what `plan` says of these hosts.
#[test]
fn outage_table() {
    let hosts = [
        ("0.5 TiB", "hosts/04-canonical-206-512gib.log"),
        ("2 TiB", "hosts/01-canonical-385-2tib.log"),
        ("12 TiB", "e820/02-hp-superdome2-16s-12tib.log"),
    ];
    let mut table = String::new();
    for (name, log) in hosts {
        for rates in ["2.3,100", "10,200"] {
            let out = run(&["plan", "--host", &fixture(log), "--bandwidth", rates, "--format", "json"]);
            assert_eq!(out.code, 0, "{}", out.stderr);
            for row in out.json()["cost"]["outage"].as_array().unwrap() {
                let seconds = |key: &str| match row[key].as_f64().unwrap() {
                    seconds if seconds < 10.0 => format!("{seconds:.1}"),
                    seconds => format!("{seconds:.0}"),
                };
                let (one, all) = rates.split_once(',').unwrap();
                let share = row["memory_in_tds"].as_str().unwrap();
                let [kexec, together, reset, exclude] =
                    ["kexec_one_cpu", "kexec_all_cpus", "dump_reset", "dump_exclude"].map(seconds);
                let row = format!("| {name} | {one}, {all} | {share} | {kexec} | {together} | {reset} | {exclude} |\n");
                table.push_str(&row);
            }
        }
    }
    let page = std::fs::read_to_string(fixture("../docs/outage.md")).unwrap();
    assert!(page.contains(&table), "docs/outage.md should have\n{table}");
}
