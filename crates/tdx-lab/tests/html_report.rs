//! The page of an exploration: whole, safe whatever the names are, the same every time, and fit for a phone in a real browser.

use std::path::PathBuf;
use std::process::Command;

use tdx_lab::explore::{Effort, Options, bugs, explore, find, find_bugs};
use tdx_lab::report::{ExploreReport, html};

fn options() -> Options {
    let effort = Effort { preemptions: 1, systematic: 8, random: 2, seed: 1 };
    Options { effort, lengths: [1, 1], timeline: true, ..Options::default() }
}

/// A run without a broken rule, one with some, and the catalogue.
fn reports() -> [ExploreReport; 3] {
    let scenario = |name| find(name).unwrap().unwrap();
    let bug = |name: &str| bugs().find(|bug| bug.name == name).unwrap();
    let clean = explore(&[scenario("bring-up-fails"), scenario("two-cpus")], None, &options(), &()).unwrap();
    let broken = explore(&[scenario("td-life")], Some(bug("page-freed-before-reset")), &options(), &()).unwrap();
    let some = [bug("mark-after-give"), bug("lost-mark"), bug("list-withdrawn-late")];
    [clean, broken, find_bugs(&some, &options(), &()).unwrap()]
}

/// Every element is closed where it should be; attributes are quoted.
fn assert_well_formed(page: &str) {
    let body = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag that never ends");
        let tag = &rest[at + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "before {:.80}", &rest[end..]);
        } else {
            let name = tag.split([' ', '\n']).next().unwrap();
            let closed_at_once = name == "rect" && !rest[end + 1..].starts_with("<title>");
            if name != "meta" && !closed_at_once {
                open.push(name);
            }
        }
        rest = &rest[end + 1..];
        if tag == "style" {
            rest = &rest[rest.find("</style>").unwrap()..];
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn pages_are_whole_and_need_no_network() {
    for report in reports() {
        let page = html::page(&report);
        assert_well_formed(&page);
        assert!(!page.contains("http") && !page.contains("<script") && !page.contains("url("), "a page of its own");
        assert_eq!(page, html::page(&report));
        assert!(page.len() < 2 << 20);
    }
}

#[test]
fn pages_say_what_was_found() {
    let [clean, broken, catalogue] = reports().map(|report| html::page(&report));
    assert!(
        clean.contains("No rule was broken") && clean.contains("PAMT_4K 4 MiB") && clean.contains("TDH.SYS.TDMR.INIT")
    );
    assert!(broken.contains("times a rule was broken") && broken.contains("machine check in the next kernel"));
    assert!(broken.contains("cleanslate explore --scenario td-life --bug page-freed-before-reset --instant"));
    assert!(broken.contains("class=\"broken\"") && broken.contains("guest page 2"));
    assert!(catalogue.contains("3 of 3 bugs found") && catalogue.contains("id=\"bug-lost-mark\""));
    // The strip links to the story.
    let story = broken.split("<div class=\"finding\" id=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(broken.contains(&format!("href=\"#{story}\"")), "{story}");
}

#[test]
fn names_stay_text() {
    let [_, mut report, _] = reports();
    let evil = "</style><script>alert('x')</script>\" onclick=\"";
    report.scenarios[0].about = evil.to_owned();
    report.scenarios[0].name = evil.to_owned();
    report.scenarios[0].steps = vec![evil.to_owned()];
    for finding in &mut report.scenarios[0].findings {
        finding.story = vec![evil.to_owned()];
        finding.replay = evil.to_owned();
    }
    let page = html::page(&report);
    assert_well_formed(&page);
    assert!(!page.contains("<script") && !page.contains("\" onclick"));
}

/// What a browser finds: elements that stick out to the right of a viewport of this width, apart from what scrolls in its own box.
fn sticking_out(chromium: &str, page: &str, width: u32, name: &str) -> String {
    let probe = format!(
        "<style>html{{width:{width}px}}</style><script>addEventListener('load',()=>{{document.querySelectorAll('details')\
         .forEach(d=>d.open=true);const out=[...document.querySelectorAll('body *')].filter(e=>!e.closest('.scroll table,svg')&&\
         e.getBoundingClientRect().right>{width}+1).map(e=>e.tagName+'.'+e.className);document.title='out:'+out.length+' '+\
         out.slice(0,3).join(' ')+' wide:'+(document.body.scrollWidth>{width})+' text:'+(document.body.innerText.length>500)}})</script></body>"
    );
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{width}.html"));
    std::fs::write(&file, page.replace("</body>", &probe)).unwrap();
    let profile = file.with_extension("profile");
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or_default();
    title.to_owned()
}

#[test]
fn pages_fit_a_phone_and_a_desk_in_a_browser() {
    let chromium = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()));
    let Some(chromium) = chromium else {
        eprintln!("skipped: no Chromium (Debian: apt-get install chromium); the page was not looked at in a browser");
        return;
    };
    for (report, name) in reports().iter().zip(["clean", "broken", "catalogue"]) {
        let page = html::page(report);
        for width in [360, 1200] {
            let found = sticking_out(chromium, &page, width, name);
            assert_eq!(found.trim(), "out:0  wide:false text:true", "{name} at {width}");
        }
    }
}
