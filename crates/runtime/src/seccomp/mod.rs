//! Seccomp profiles, compiled to the kernel's filter programs without a library.
//!
//! `RuntimeDefault` allows what <https://docs.docker.com/engine/security/seccomp/> describes: everything but the calls that
//! administer the machine, each of which comes back with its capability. `Localhost` profiles are of the form of
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp>. Only the native architecture's calls
//! pass. The kernel remembers which calls are always allowed, so a filter's length doesn't slow those.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "aarch64")]
use aarch64::SYSCALLS;
#[cfg(target_arch = "x86_64")]
use x86_64::SYSCALLS;

use serde::Deserialize;

use crate::{Error, Result};

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = libc::EPERM as u32;
const ENOSYS: u32 = libc::ENOSYS as u32;
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// What administers the machine, and the capability (its number) that brings it back; 255 for none.
const RESTRICTED: &[(&str, &[u8])] = &[
    ("acct", &[20]),
    ("add_key", &[]),
    ("_sysctl", &[]),
    ("afs_syscall", &[]),
    ("bpf", &[21, 39]),
    ("chroot", &[18]),
    ("clock_adjtime", &[25]),
    ("clock_settime", &[25]),
    ("create_module", &[]),
    ("delete_module", &[16]),
    ("fanotify_init", &[21]),
    ("finit_module", &[16]),
    ("fsconfig", &[21]),
    ("fsmount", &[21]),
    ("fsopen", &[21]),
    ("fspick", &[21]),
    ("get_kernel_syms", &[]),
    ("get_mempolicy", &[23]),
    ("init_module", &[16]),
    ("io_uring_enter", &[]),
    ("io_uring_register", &[]),
    ("io_uring_setup", &[]),
    ("ioperm", &[17]),
    ("iopl", &[17]),
    ("kcmp", &[19]),
    ("kexec_file_load", &[]),
    ("kexec_load", &[]),
    ("keyctl", &[]),
    ("lookup_dcookie", &[21]),
    ("lsm_set_self_attr", &[]),
    ("mbind", &[23]),
    ("mount", &[21]),
    ("mount_setattr", &[21]),
    ("move_mount", &[21]),
    ("move_pages", &[]),
    ("migrate_pages", &[]),
    ("nfsservctl", &[]),
    ("open_by_handle_at", &[2]),
    ("open_tree", &[21]),
    ("open_tree_attr", &[21]),
    ("perf_event_open", &[21, 38]),
    ("pidfd_getfd", &[19]),
    ("pivot_root", &[]),
    ("process_vm_readv", &[19]),
    ("process_vm_writev", &[19]),
    ("query_module", &[]),
    ("quotactl", &[21]),
    ("quotactl_fd", &[21]),
    ("reboot", &[22]),
    ("request_key", &[]),
    ("set_mempolicy", &[23]),
    ("set_mempolicy_home_node", &[23]),
    ("setdomainname", &[21]),
    ("sethostname", &[21]),
    ("setns", &[21]),
    ("settimeofday", &[25]),
    ("swapoff", &[]),
    ("swapon", &[]),
    ("sysfs", &[]),
    ("syslog", &[21, 34]),
    ("umount2", &[21]),
    ("unshare", &[21]),
    ("uprobe", &[]),
    ("uretprobe", &[]),
    ("uselib", &[]),
    ("userfaultfd", &[]),
    ("ustat", &[]),
    ("vhangup", &[26]),
    ("vserver", &[]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `argument & mask == value`.
    Masked(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    argument: u32,
    test: Test,
    value: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    call: i64,
    /// All must hold.
    when: Vec<Condition>,
    action: u32,
}

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

const fn op(code: u32, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction {
        code: code as u16,
        jt,
        jf,
        k,
    }
}
const LD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JEQ: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JGT: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const JGE: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const RET: u32 = libc::BPF_RET | libc::BPF_K;

/// Marks a jump to where the condition has failed or held; replaced when the block is complete.
const FAIL: u8 = 254;
const HOLD: u8 = 253;

impl Condition {
    /// Falls through when it holds; `FAIL` otherwise.
    fn compile(&self) -> Vec<Instruction> {
        let offset = 16 + 8 * self.argument;
        let (low, high) = (self.value as u32, (self.value >> 32) as u32);
        let (load_low, load_high) = (op(LD, 0, 0, offset), op(LD, 0, 0, offset + 4));
        let mut code = match self.test {
            Test::Equal => vec![
                load_high,
                op(JEQ, 0, FAIL, high),
                load_low,
                op(JEQ, 0, FAIL, low),
            ],
            Test::NotEqual => vec![
                load_high,
                op(JEQ, 0, HOLD, high),
                load_low,
                op(JEQ, FAIL, 0, low),
            ],
            Test::Masked(mask) => vec![
                load_high,
                op(AND, 0, 0, (mask >> 32) as u32),
                op(JEQ, 0, FAIL, high),
                load_low,
                op(AND, 0, 0, mask as u32),
                op(JEQ, 0, FAIL, low),
            ],
            Test::Greater | Test::GreaterOrEqual => {
                let last = if self.test == Test::Greater { JGT } else { JGE };
                vec![
                    load_high,
                    op(JGT, HOLD, 0, high),
                    op(JEQ, 0, FAIL, high),
                    load_low,
                    op(last, 0, FAIL, low),
                ]
            }
            Test::Less | Test::LessOrEqual => {
                let last = if self.test == Test::Less { JGE } else { JGT };
                vec![
                    load_high,
                    op(JGT, FAIL, 0, high),
                    op(JEQ, 0, HOLD, high),
                    load_low,
                    op(last, FAIL, 0, low),
                ]
            }
        };
        let length = code.len();
        for (i, instruction) in code.iter_mut().enumerate() {
            for jump in [&mut instruction.jt, &mut instruction.jf] {
                if *jump == HOLD {
                    *jump = (length - i - 1) as u8;
                }
            }
        }
        code
    }
}

/// The program for a list of rules, as the kernel's array of `sock_filter`.
fn compile(mut rules: Vec<Rule>, default: u32) -> Vec<u8> {
    rules.retain(|r| r.action != default || !r.when.is_empty());
    let newest = SYSCALLS.iter().map(|(_, n)| *n).max().unwrap_or(0) as u32;
    let mut code = vec![
        op(LD, 0, 0, 4),
        op(JEQ, 1, 0, ARCH),
        op(RET, 0, 0, ERRNO | EPERM),
        op(LD, 0, 0, 0),
    ];
    // Calls newer than this build (and x32's, which have the highest bit but one): programs know what to do without them.
    code.push(op(JGT, 0, 1, newest));
    code.push(op(
        RET,
        0,
        0,
        if default == ALLOW {
            ALLOW
        } else {
            ERRNO | ENOSYS
        },
    ));

    let (conditional, mut plain): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|r| !r.when.is_empty());
    for rule in &conditional {
        if plain.iter().any(|p| p.call == rule.call) {
            continue;
        }
        let mut block: Vec<_> = rule.when.iter().flat_map(Condition::compile).collect();
        block.push(op(RET, 0, 0, rule.action));
        let length = block.len();
        for (i, instruction) in block.iter_mut().enumerate() {
            for jump in [&mut instruction.jt, &mut instruction.jf] {
                if *jump == FAIL {
                    *jump = (length - i - 1) as u8;
                }
            }
        }
        code.push(op(JEQ, 0, (length + 1) as u8, rule.call as u32));
        code.extend(block);
        code.push(op(LD, 0, 0, 0));
    }
    plain.sort_by_key(|r| r.call);
    plain.dedup_by_key(|r| r.call);
    let mut rest = plain.as_slice();
    while let Some(first) = rest.first() {
        let mut length = 1;
        while rest
            .get(length)
            .is_some_and(|r| r.call == first.call + length as i64 && r.action == first.action)
        {
            length += 1;
        }
        code.push(op(JGE, 0, 2, first.call as u32));
        code.push(op(JGT, 1, 0, (first.call as usize + length - 1) as u32));
        code.push(op(RET, 0, 0, first.action));
        rest = &rest[length..];
    }
    code.push(op(RET, 0, 0, default));
    code.iter()
        .flat_map(|i| {
            let [a, b] = i.code.to_ne_bytes();
            let [w, x, y, z] = i.k.to_ne_bytes();
            [a, b, i.jt, i.jf, w, x, y, z]
        })
        .collect()
}

/// The filter of `RuntimeDefault` for a process with these capabilities.
pub(crate) fn runtime_default(capabilities: u64) -> Vec<u8> {
    let has = |caps: &[u8]| caps.iter().any(|c| capabilities & (1 << c) != 0);
    let mut rules = Vec::new();
    let allow = |call, when| Rule {
        call,
        when,
        action: ALLOW,
    };
    let equal = |value| {
        vec![Condition {
            argument: 0,
            test: Test::Equal,
            value,
        }]
    };
    for &(name, call) in SYSCALLS {
        match name {
            // The flags are behind a pointer where no filter sees them; without it libc falls back to clone.
            "clone3" if !has(&[21]) => rules.push(Rule {
                call,
                when: vec![],
                action: ERRNO | ENOSYS,
            }),
            "clone" if !has(&[21]) => rules.push(allow(
                call,
                vec![Condition {
                    argument: 0,
                    test: Test::Masked(0x7e02_0000),
                    value: 0,
                }],
            )),
            "personality" => {
                rules.extend([0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(|v| allow(call, equal(v))))
            }
            "socket" => rules.push(allow(
                call,
                vec![Condition {
                    argument: 0,
                    test: Test::NotEqual,
                    value: libc::AF_VSOCK as u64,
                }],
            )),
            _ => match RESTRICTED.iter().find(|(n, _)| *n == name) {
                Some((_, caps)) if !has(caps) => {}
                _ => rules.push(allow(call, vec![])),
            },
        }
    }
    compile(rules, ERRNO | EPERM)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<ProfileRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileRule {
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<ProfileArgument>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileArgument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

fn action(name: &str, errno: Option<u32>) -> Result<u32> {
    let errno = errno.unwrap_or(EPERM) & 0xffff;
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        other => {
            return Err(Error::InvalidArgument(format!(
                "seccomp profile: unknown action {other:?}"
            )));
        }
    })
}

/// The filter of a profile's JSON. Calls this architecture doesn't have are skipped.
pub(crate) fn localhost(json: &[u8]) -> Result<Vec<u8>> {
    let profile: Profile = serde_json::from_slice(json)
        .map_err(|e| Error::InvalidArgument(format!("seccomp profile: {e}")))?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut rules = Vec::new();
    for rule in &profile.syscalls {
        let action = action(&rule.action, rule.errno_ret)?;
        let mut when = Vec::new();
        for a in rule.args.iter().flatten() {
            let (test, value) = match a.op.as_str() {
                "SCMP_CMP_EQ" => (Test::Equal, a.value),
                "SCMP_CMP_NE" => (Test::NotEqual, a.value),
                "SCMP_CMP_LT" => (Test::Less, a.value),
                "SCMP_CMP_LE" => (Test::LessOrEqual, a.value),
                "SCMP_CMP_GT" => (Test::Greater, a.value),
                "SCMP_CMP_GE" => (Test::GreaterOrEqual, a.value),
                "SCMP_CMP_MASKED_EQ" => (Test::Masked(a.value), a.value_two),
                other => {
                    return Err(Error::InvalidArgument(format!(
                        "seccomp profile: unknown operator {other:?}"
                    )));
                }
            };
            if a.index > 5 {
                return Err(Error::InvalidArgument(format!(
                    "seccomp profile: argument {} of at most 5",
                    a.index
                )));
            }
            when.push(Condition {
                argument: a.index,
                test,
                value,
            });
        }
        if when.len() > 12 {
            return Err(Error::InvalidArgument(
                "seccomp profile: more than 12 conditions on one call".into(),
            ));
        }
        for name in &rule.names {
            if let Some((_, call)) = SYSCALLS.iter().find(|(n, _)| n == name) {
                rules.push(Rule {
                    call: *call,
                    when: when.clone(),
                    action,
                });
            }
        }
    }
    Ok(compile(rules, default))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a call.
    fn run(program: &[u8], call: i64, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend((call as u32).to_ne_bytes());
        data.extend(ARCH.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        arguments.iter().for_each(|a| data.extend(a.to_ne_bytes()));
        let (mut a, mut pc) = (0_u32, 0);
        loop {
            let i = &program[pc * 8..pc * 8 + 8];
            let (code, k) = (
                u32::from(u16::from_ne_bytes([i[0], i[1]])),
                u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
            );
            pc += 1;
            let mut jump = |yes: bool| pc += usize::from(if yes { i[2] } else { i[3] });
            match code {
                LD => a = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
                AND => a &= k,
                JEQ => jump(a == k),
                JGT => jump(a > k),
                JGE => jump(a >= k),
                RET => return k,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_default_allows_work_and_refuses_administration() {
        let program = runtime_default(0);
        assert!(program.len() / 8 < 4096);
        for call in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_futex,
            libc::SYS_getrandom,
            libc::SYS_rseq,
        ] {
            assert_eq!(run(&program, call, [0; 6]), ALLOW, "{call}");
        }
        for call in [
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_unshare,
            libc::SYS_keyctl,
            libc::SYS_reboot,
        ] {
            assert_eq!(run(&program, call, [0; 6]), ERRNO | EPERM, "{call}");
        }
        assert_eq!(run(&program, libc::SYS_clone, [0x11, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(
            run(&program, libc::SYS_clone, [0x1000_0011, 0, 0, 0, 0, 0]),
            ERRNO | EPERM
        );
        assert_eq!(run(&program, libc::SYS_clone3, [0; 6]), ERRNO | ENOSYS);
        assert_eq!(
            run(&program, libc::SYS_personality, [0x2_0008, 0, 0, 0, 0, 0]),
            ALLOW
        );
        assert_eq!(
            run(&program, libc::SYS_personality, [1, 0, 0, 0, 0, 0]),
            ERRNO | EPERM
        );
        assert_eq!(run(&program, libc::SYS_socket, [2, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(
            run(&program, libc::SYS_socket, [40, 0, 0, 0, 0, 0]),
            ERRNO | EPERM
        );
        assert_eq!(run(&program, 5000, [0; 6]), ERRNO | ENOSYS);
        assert_eq!(
            run(&runtime_default(1 << 21), libc::SYS_mount, [0; 6]),
            ALLOW
        );
    }

    #[test]
    fn conditions_compare_all_64_bits() {
        let with = |op: &str| {
            localhost(
                format!(
                    r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["read","nonesuch"],
                    "action":"SCMP_ACT_ERRNO","errnoRet":5,"args":[{{"index":1,"value":4294967300,"op":"{op}"}}]}}]}}"#
                )
                .as_bytes(),
            )
            .unwrap()
        };
        for (op, expected) in [
            ("SCMP_CMP_EQ", [false, false, true, false, false]),
            ("SCMP_CMP_NE", [true, true, false, true, true]),
            ("SCMP_CMP_LT", [true, true, false, false, false]),
            ("SCMP_CMP_LE", [true, true, true, false, false]),
            ("SCMP_CMP_GT", [false, false, false, true, true]),
            ("SCMP_CMP_GE", [false, false, true, true, true]),
        ] {
            let program = with(op);
            for (value, matches) in [4, 4294967299, 4294967300, 4294967301, 1 << 40]
                .into_iter()
                .zip(expected)
            {
                let result = run(&program, libc::SYS_read, [0, value, 0, 0, 0, 0]);
                assert_eq!(
                    result,
                    if matches { ERRNO | 5 } else { ALLOW },
                    "{op} {value}"
                );
            }
        }
        assert!(localhost(b"{}").is_err());
    }
}
