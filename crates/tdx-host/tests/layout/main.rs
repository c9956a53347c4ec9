//! Tests of `tdx_host::layout`, judged by a checker of TDH.SYS.CONFIG's rules and by set arithmetic
//! that share no code with it.

mod fit;
mod fixtures;
mod generate;
mod hosts;
mod inputs;
mod linux;
mod optimal;
mod pressure;
mod support;
mod sys_config;
