//! The page of an exploration: whole, safe whatever the names are, the same every time, and fit for
//! a phone and a desk, by day and by night, in a real browser.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use tdx_abi::PhysAddr;
use tdx_explorer::{Effort, Options, bugs, explore, find, find_bugs};
use tdx_explorer::{
    html,
    report::{ExploreReport, MapPiece},
};
use tdx_operator::report::{Address, Span};

fn options() -> Options {
    let effort = Effort { preemptions: 1, systematic: 8, random: 2, seed: 1 };
    Options { effort, lengths: [1, 1], timeline: true, ..Options::default() }
}

/// Explored once for all tests.
fn reports() -> [ExploreReport; 3] {
    static REPORTS: LazyLock<[ExploreReport; 3]> = LazyLock::new(run);
    REPORTS.clone()
}

/// A run without a broken rule, one with some, and the catalogue with a bug that was missed.
fn run() -> [ExploreReport; 3] {
    let scenario = |name| find(name).unwrap().unwrap();
    let bug = |name: &str| bugs().find(|bug| bug.name == name).unwrap();
    let clean = explore(&[scenario("two-tdmrs"), scenario("two-cpus")], None, &options(), &()).unwrap();
    let broken = explore(&[scenario("td-life")], Some(bug("page-freed-before-reset")), &options(), &()).unwrap();
    let some = [bug("mark-after-give"), bug("lost-mark"), bug("list-withdrawn-late"), bug("no-fence-in-unwind")];
    let mut catalogue = find_bugs(&some, &options(), &()).unwrap();
    let missed = catalogue.catalogue.last_mut().unwrap();
    (missed.found, missed.found_by, missed.finding) = (false, None, None);
    (missed.scenario, missed.replay_steps, missed.replay_operations) = (None, None, None);
    catalogue.bugs_found = Some(3);
    [clean, broken, catalogue]
}

/// Values of an attribute.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    page.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// Every element is closed where it should be, attributes are quoted, ids are unique and links lead
/// somewhere.
fn assert_well_formed(page: &str) {
    let body = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag that never ends");
        let tag = &rest[at + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "before {:.80}", &rest[end..]),
            None if tag.ends_with('/') || tag.starts_with("meta ") => {}
            None => open.push(tag.split([' ', '\n']).next().unwrap()),
        }
        rest = &rest[end + 1..];
        if tag == "style" {
            rest = &rest[rest.find("</style>").unwrap()..];
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let ids: Vec<&str> = values(page, " id=\"");
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len(), "an id stands twice");
    for link in values(page, " href=\"") {
        assert!(unique.contains(link.strip_prefix('#').expect("a link out of the page")), "{link}");
    }
}

#[test]
fn pages_are_whole_and_need_no_network() {
    for report in reports() {
        let page = html::page(&report);
        assert_well_formed(&page);
        for outside in ["http:", "https:", "<script", "<link", "<img", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page, html::page(&report));
        assert!(page.len() < 300_000, "{}", page.len());
    }
}

#[test]
fn pages_say_what_was_found() {
    let [clean, broken, catalogue] = reports().map(|report| html::page(&report));
    for text in
        ["No rule was broken", "PAMT_4K <span class=\"soft\">8 MiB", "TDH.SYS.TDMR.INIT", "TDMR 1", "Short sequences"]
    {
        assert!(clean.contains(text), "{text}");
    }
    assert!(!clean.contains("class=\"bad\"") && clean.contains("One schedule of"));
    for text in ["Rules were broken", "machine check in the next kernel", "class=\"broken\"", "TDH.MEM.PAGE.RELOCATE"] {
        assert!(broken.contains(text), "{text}");
    }
    assert!(broken.contains("cleanslate explore --scenario td-life --bug page-freed-before-reset --instant"));
    for text in ["3 of 4 bugs found", "lost-mark", "order of CPUs", "Origin: ", "a gap of the software machine"] {
        assert!(catalogue.contains(text), "{text}");
    }
    // The strip links to the story of the first broken instant.
    assert!(broken.contains("<a href=\"#s0-f0\"><rect class=\"broken\""));
}

/// The page opens on a picture: what broke step by step with the bug in its first line, or private
/// and marked lines over time; a row for each CPU.
#[test]
fn the_page_opens_on_a_picture() {
    let [clean, broken, catalogue] = reports();
    for (report, words) in [
        (&broken, "Bug that was put in: <b>page-freed-before-reset</b>"),
        (&catalogue, "Bug that was put in: <b>"),
        (&clean, "lines that are private, and lines that the kernel has marked"),
    ] {
        let page = html::page(report);
        let (before, picture) = page.split_once("<figure class=\"lead\">").unwrap();
        let picture = picture.split("</figure>").next().unwrap();
        assert!(!before.contains("class=\"verdict"), "the picture comes first");
        let first = picture.split("<p").nth(1).unwrap().split("</p>").next().unwrap();
        assert!(first.contains(words), "{first}");
        assert!(picture.contains("<li>CPU 0</li>"), "{picture}");
        let story = report.scenarios.iter().find_map(|run| run.findings.first());
        if let Some(found) = story {
            assert!(found.story.iter().all(|line| picture.matches(line.split('<').next().unwrap()).count() >= 1));
        }
    }
    let run = &clean.scenarios[0];
    assert!(run.timeline.iter().all(|point| point.private_lines <= point.marked_lines), "what is private is marked");
    assert!(run.timeline.iter().any(|point| point.private_lines > 0));
    assert!(run.timeline.iter().all(|point| point.cpu < run.cpus));
}

#[test]
fn a_clean_time_line_does_not_hide_what_other_schedules_broke() {
    let bug = bugs().find(|bug| bug.name == "lost-mark").unwrap();
    let report = explore(&[find("two-cpus").unwrap().unwrap()], Some(bug), &options(), &()).unwrap();
    assert!(report.scenarios[0].timeline.iter().all(|point| point.broken.is_none()), "the first schedule is in turn");
    assert!(html::page(&report).contains("It is clean; rules were broken in others."));
}

#[test]
fn the_time_line_has_every_instant_once() {
    let [clean, broken, _] = reports();
    for report in [clean, broken] {
        let page = html::page(&report);
        let (strips, mut instants) = (page.split("<svg class=\"time\"").skip(1), 0);
        for (strip, run) in strips.zip(&report.scenarios) {
            let mut next = 1;
            for title in strip.split("</svg>").next().unwrap().split(", instants ").skip(1) {
                let (first, rest) = title.split_once(" to ").unwrap();
                let last = rest.split(':').next().unwrap();
                assert_eq!(first.parse::<u64>().unwrap(), next);
                next = last.parse::<u64>().unwrap() + 1;
            }
            assert_eq!(next - 1, run.timeline.len() as u64);
            instants += run.timeline.len();
        }
        assert!(instants > 1000);
    }
}

#[test]
fn names_stay_text() {
    let [_, mut report, catalogue] = reports();
    let evil = "</style><script>alert('x')</script>\" onclick=\"";
    report.catalogue = catalogue.catalogue;
    let scenario = &mut report.scenarios[0];
    for text in [&mut scenario.name, &mut scenario.about, &mut scenario.cpu] {
        evil.clone_into(text);
    }
    scenario.steps = vec![evil.to_owned()];
    scenario.unmet = vec![evil.to_owned()];
    scenario.memory_map[0].kind = evil;
    (scenario.module, scenario.policy) = (evil, evil);
    for point in &mut scenario.timeline {
        point.broken = Some(evil);
    }
    let found = report.catalogue.iter_mut().filter_map(|bug| bug.finding.as_mut());
    for finding in scenario.findings.iter_mut().chain(found) {
        finding.story = vec![evil.to_owned()];
        (finding.rule, finding.kind) = (evil, evil);
        (finding.end, finding.schedule) = (Some(evil.to_owned()), Some(evil.to_owned()));
        for text in [&mut finding.replay, &mut finding.what, &mut finding.operation, &mut finding.step] {
            evil.clone_into(text);
        }
    }
    for bug in &mut report.catalogue {
        (bug.name, bug.what, bug.origin, bug.scenario) = (evil, evil, evil, Some(evil.to_owned()));
        bug.found_by = bug.found_by.map(|_| evil);
    }
    for row in &mut report.coverage {
        (row.leaf, row.status) = (evil.to_owned(), evil.to_owned());
    }
    let page = html::page(&report);
    assert_well_formed(&page);
    assert!(!page.contains("<script") && !page.contains("\" onclick"));
}

/// A page for a host that says nothing, for one that is as large as hosts get, and for pages in
/// great number.
#[test]
fn strange_memory_is_drawn() {
    let [_, mut report, _] = reports();
    let piece = |base: u64, size: u64, kind| {
        let address = |at| Address(PhysAddr::new(at));
        MapPiece { span: Span { base: address(base), end: address(base + size), size }, kind }
    };
    let pages = (0..4000).map(|page| piece((1 << 40) + page * 8192, 4096, "guest page"));
    let maps = [
        vec![],
        vec![piece(0, 0, "memory")],
        vec![piece(0, (1 << 52) - 4096, "memory"), piece(4096, 4096, "a kind of tomorrow")],
        [piece(1 << 40, 1 << 40, "TDMR")].into_iter().chain(pages).collect(),
    ];
    for map in maps {
        report.scenarios[0].memory_map = map;
        let page = html::page(&report);
        assert_well_formed(&page);
        assert!(!page.contains("NaN") && !page.contains("inf%"));
    }
}

/// Runs in each page, in a frame as wide as the screen that is asked for: what sticks out of the
/// viewport, text that has too little contrast with what is behind it (WCAG 2, level AA), and what
/// the frame takes itself to be.
const PROBE: &str = r"
const rgb = c => (c.match(/[\d.]+/g) || []).map(Number);
const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; }
  return 'rgb(255, 255, 255)'; };
addEventListener('load', () => { const said = [...document.querySelectorAll('iframe')].map(frame => {
  const doc = frame.contentDocument, view = frame.contentWindow, width = view.innerWidth;
  doc.querySelectorAll('details').forEach(d => d.open = true);
  const all = [...doc.querySelectorAll('body, body *')], name = e => e.tagName + '.' + (e.className.baseVal ?? e.className);
  const out = all.filter(e => !e.closest('.scroll table, svg') && e.getBoundingClientRect().right > width + .5).map(name);
  const faint = all.filter(e => !e.closest('svg') && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).filter(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a);
    return (a + .05) / (b + .05) < 4.5; }).map(name);
  const lettered = [...doc.querySelectorAll('svg.pages text:not(.under)')].filter(t => {
    const a = light(getComputedStyle(t).fill), b = light(getComputedStyle(t.previousElementSibling).fill);
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5; }).map(name);
  return [frame.title, width, view.matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light',
    'scrolls:' + (doc.documentElement.scrollWidth > width), 'text:' + (doc.body.innerText.length > 500),
    'out:' + [...new Set(out)], 'faint:' + [...new Set([...faint, ...lettered])]].join(' ') + ';'; });
  document.title = said.join('\n'); });";

fn chromium() -> Option<&'static str> {
    let runs = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(runs)
}

fn browse(chromium: &str, file: &Path, dark: bool, more: &[String]) -> Output {
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"])
        .args(["--window-size=1700,1600", "--enable-logging=stderr"])
        .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)))
        .arg(format!("--user-data-dir={}", file.with_extension("profile").display()))
        .args(more)
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    // The browser's own troubles with the machine it runs on are not the page's.
    let said = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:#?}");
    output
}

#[test]
fn pages_fit_a_phone_and_a_desk_by_day_and_by_night() {
    let Some(chromium) = chromium() else {
        return skip::test("the pages in a browser", "chromium", "apt-get install chromium");
    };
    let escaped = |page: &str| page.replace('&', "&amp;").replace('"', "&quot;");
    let mut frames = String::new();
    let mut expected = Vec::new();
    for (report, name) in reports().iter().zip(["clean", "broken", "catalogue"]) {
        let page = escaped(&html::page(report));
        for width in [360, 1200] {
            let style = format!("width:{width}px;height:1500px;border:0");
            frames.extend(["<iframe title=\"", name, "\" style=\"", &style, "\" srcdoc=\"", &page, "\"></iframe>\n"]);
            expected.push((name, width));
        }
    }
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("html-report.html");
    std::fs::write(
        &file,
        format!("<!DOCTYPE html><meta charset=\"utf-8\"><title></title>\n<script>{PROBE}</script>\n{frames}"),
    )
    .unwrap();
    for (dark, scheme) in [(false, "light"), (true, "dark")] {
        let output = browse(chromium, &file, dark, &["--dump-dom".to_owned()]);
        let dom = String::from_utf8_lossy(&output.stdout).into_owned();
        let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or_default();
        let said: Vec<&str> = title.split(';').map(str::trim).filter(|line| !line.is_empty()).collect();
        let expected: Vec<String> = expected
            .iter()
            .map(|(name, width)| format!("{name} {width} {scheme} scrolls:false text:true out: faint:"))
            .collect();
        assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
        // For people: `target/tmp/html-report-*.png`.
        let picture = file.with_file_name(format!("html-report-{scheme}.png"));
        browse(chromium, &file, dark, &[format!("--screenshot={}", picture.display())]);
        assert!(std::fs::read(&picture).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000));
    }
}
