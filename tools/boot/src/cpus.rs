//! Where the CPUs of a boot that hangs are: QEMU's answer to `info registers -a`.

use crate::symbols::Symbols;

/// A CPU at one instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    rip: u64,
    takes_interrupts: bool,
    is_halted: bool,
}

/// The CPUs of an answer, by number.
pub(crate) fn places(answer: &str) -> Vec<Place> {
    // Each CPU begins with `CPU#0`.
    answer.split("CPU#").skip(1).filter_map(place).collect()
}

fn place(cpu: &str) -> Option<Place> {
    /// RFLAGS.IF.
    const INTERRUPTS: u64 = 1 << 9;
    let field = |name: &str| cpu.split_whitespace().find_map(|word| word.strip_prefix(name));
    let number = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
    Some(Place {
        rip: number("RIP=").or_else(|| number("EIP="))?,
        takes_interrupts: number("RFL=").or_else(|| number("EFL="))? & INTERRUPTS != 0,
        is_halted: field("HLT=")? == "1",
    })
}

/// One sentence of where the CPUs were at two instants, a little apart.
pub(crate) fn describe(first: &[Place], second: &[Place], symbols: &Symbols) -> String {
    let name = |place: &Place| symbols.at(place.rip).unwrap_or_else(|| format!("{:#x}", place.rip));
    let cpus = first.iter().zip(second).enumerate().map(|(number, (before, now))| {
        let then = if before.rip == now.rip { String::new() } else { format!("{}, then ", name(before)) };
        let halted = if now.is_halted { ", halted" } else { "" };
        let off = if now.takes_interrupts { "" } else { ", interrupts off" };
        format!("CPU {number} at {then}{}{halted}{off}", name(now))
    });
    cpus.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU 7.2, shortened.
    const ANSWER: &str = "QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) info registers -a\r\n\r\nCPU#0\r\n\
        RAX=0000000000000000 RBX=ffffffff82a0c980 RCX=0000000000000001 RDX=4000000000000000\r\n\
        RIP=ffffffff81000107 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\nES =0000 0 ffffffff 00c00000\r\n\
        \r\nCPU#1\r\nRAX=0000000000000000 RBX=ffffffff82a0c980 RCX=0000000000000001 RDX=4000000000000000\r\n\
        RIP=0000000007f4a2c1 RFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0\r\n(qemu) ";

    #[test]
    fn an_answer_says_where_each_cpu_is() {
        let found = places(ANSWER);
        assert_eq!(
            found,
            [
                Place { rip: 0xffff_ffff_8100_0107, takes_interrupts: true, is_halted: true },
                Place { rip: 0x7f4_a2c1, takes_interrupts: false, is_halted: false }
            ]
        );
        assert_eq!(
            describe(&found, &found, &Symbols::default()),
            "CPU 0 at 0xffffffff81000107, halted; CPU 1 at 0x7f4a2c1, interrupts off"
        );
        let later: Vec<_> = found.iter().map(|place| Place { rip: place.rip + 1, ..place.clone() }).collect();
        assert_eq!(
            describe(&found, &later, &Symbols::default()),
            "CPU 0 at 0xffffffff81000107, then 0xffffffff81000108, halted; \
             CPU 1 at 0x7f4a2c1, then 0x7f4a2c2, interrupts off"
        );
        assert!(places("").is_empty() && places("CPU#0\r\nRIP=xyz").is_empty());
    }
}
