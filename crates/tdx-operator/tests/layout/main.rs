//! The layout of Linux against a second rendering of the kernel's functions, and both layouts on
//! the hosts of `fixtures/`. Hosts, generators and the checker of SYS.CONFIG's rules are those of
//! `tdx-host`'s own layout tests.

mod fixtures;
#[path = "../../../tdx-host/tests/layout/generate.rs"]
#[allow(dead_code)] // shared; each suite uses its part
mod generate;
#[path = "../../../tdx-host/tests/layout/hosts.rs"]
#[allow(dead_code)]
mod hosts;
mod linux;
#[path = "../../../tdx-host/tests/layout/support.rs"]
#[allow(dead_code)]
mod support;
#[path = "../../../tdx-host/tests/layout/sys_config.rs"]
#[allow(dead_code)]
mod sys_config;
