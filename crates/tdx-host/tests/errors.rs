//! Each public error of the crate goes through `?` into `Box<dyn Error + Send + Sync>`. Those that
//! hold a TD, which borrows the host, have an owned cause for that: `into_cause`.
#![cfg(not(loom))]

use std::error::Error;
use std::fs;
use std::path::Path;

use tdx_host::td::{Created, Failed, NotFinished, Td, TdCause};
use tdx_host::{bringup, dump, dynamic_pamt, follow, gate, handover, key_ids, layout, ledger, page, platform};

/// An error of its own: it borrows nothing, and any CPU can report it.
const fn is_owned<E: Error + Send + Sync + 'static>() {}

macro_rules! owned {
    ($($error:ty),* $(,)?) => {
        const _: () = { $(is_owned::<$error>();)* };
        /// As the compiler has checked them.
        const OWNED: &[&str] = &[$(stringify!($error)),*];
    };
}

owned!(
    bringup::BringupCause,
    bringup::BringupError,
    bringup::ModuleInfoError,
    bringup::NoDynamicPamt,
    dump::DumpError,
    dynamic_pamt::CountError,
    dynamic_pamt::PamtCause,
    dynamic_pamt::PamtError,
    dynamic_pamt::TooSmall,
    follow::NotFollowed,
    gate::Closed,
    handover::Refused,
    handover::StopCause,
    handover::StopError,
    handover::TableError,
    key_ids::KeyIdsError,
    layout::LayoutError,
    ledger::LedgerError,
    ledger::MarkError,
    page::GiveError,
    page::TakeError,
    page::TokenError,
    platform::NoTdx,
    platform::OutOfPages,
    tdx_host::HostError,
    tdx_host::host::PublishError,
    tdx_host::seamcall::CallError,
    tdx_host::seamcall::LeafRefused,
    tdx_host::seamcall::SeamcallError,
    tdx_host::sweep::LookError,
    tdx_host::takeover::TakeoverError,
    tdx_host::td::AdoptError,
    tdx_host::td::PageError,
    TdCause,
);

/// They hold a TD.
const WITH_CAUSE: [&str; 2] = ["Failed", "NotFinished"];

/// `?` where the TD is given up.
fn given_up(
    failed: Result<(), Failed<Td<'_, Created>>>,
    not_finished: Result<(), NotFinished<'_>>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    failed.map_err(Failed::into_cause)?;
    Ok(not_finished.map_err(NotFinished::into_cause)?)
}

/// Names of types in the source files that implement `Error`.
fn errors_of(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            errors_of(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let name = |text: &str| text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
        found.extend(text.split("Error for ").skip(1).map(name));
        for derived in text.split("thiserror::Error").skip(1) {
            let Some((_, rest)) = derived
                .split_once("pub enum ")
                .into_iter()
                .chain(derived.split_once("pub struct "))
                .min_by_key(|(before, _)| before.len())
            else {
                continue;
            };
            found.push(name(rest));
        }
    }
}

#[test]
fn every_error_is_owned_or_has_an_owned_cause() {
    assert!(given_up(Ok(()), Ok(())).is_ok());
    let mut found = Vec::new();
    errors_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found.sort();
    found.dedup();
    let mut listed: Vec<String> =
        OWNED.iter().map(|path| path.rsplit("::").next().unwrap().trim().to_owned()).collect();
    listed.extend(WITH_CAUSE.map(str::to_owned));
    listed.sort();
    assert_eq!(found, listed, "an error of src/ that this test does not list, or one that is gone");
}
