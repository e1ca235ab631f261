//! Which devices a container may use.
//!
//! The rules are written as cgroup v1's files take them (`c 1:3 rwm`). On cgroup v2 they become a small program that the
//! kernel runs at each access, attached to the container's group:
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html#device-controller>.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sys;

/// What every container may do: make any node, and use those that say nothing about the node and keep nothing.
pub(crate) const USUAL: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// One rule; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    kind: i32,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

const BLOCK: i32 = 1;
const CHAR: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let kind = match words.next()? {
            "b" => BLOCK,
            "c" => CHAR,
            _ => return None,
        };
        let (major, minor) = words.next()?.split_once(':')?;
        let number = |text: &str| match text {
            "*" => Some(None),
            text => text.parse().ok().map(Some),
        };
        let mut access = 0;
        for letter in words.next()?.chars() {
            access |= match letter {
                'm' => MAKE,
                'r' => READ,
                'w' => WRITE,
                _ => return None,
            };
        }
        Some(Self {
            kind,
            major: number(major)?,
            minor: number(minor)?,
            access,
        })
    }
}

/// Whether a rule lets that character device be read and written.
pub(crate) fn usual(major: u32, minor: u32) -> bool {
    let fits = |rule: Option<i32>, n: u32| rule.is_none_or(|r| u32::try_from(r) == Ok(n));
    USUAL.iter().filter_map(|r| Rule::parse(r)).any(|r| {
        r.kind == CHAR
            && r.access & (READ | WRITE) == READ | WRITE
            && fits(r.major, major)
            && fits(r.minor, minor)
    })
}

/// An instruction of eBPF.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    number: i32,
}

const LOAD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const UNLESS_NUMBER: u8 = 0x55;
const UNLESS_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// Allows what one of the rules allows. Registers: 2 the kind, 3 the access, 4 the major and 5 the minor number.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let op = |code, to: u8, from: u8, offset, number| Instruction {
        code,
        registers: from << 4 | to,
        offset,
        number,
    };
    let mut out = vec![
        op(LOAD, 2, 1, 0, 0),
        op(MOVE, 3, 2, 0, 0),
        op(AND, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD, 4, 1, 4, 0),
        op(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut checks = vec![op(UNLESS_NUMBER, 2, 0, 0, rule.kind)];
        if rule.access != MAKE | READ | WRITE {
            checks.push(op(MOVE, 1, 3, 0, 0));
            checks.push(op(AND, 1, 0, 0, rule.access));
            checks.push(op(UNLESS_REGISTER, 1, 3, 0, 0));
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                checks.push(op(UNLESS_NUMBER, register, 0, 0, number));
            }
        }
        // What does not fit goes on behind the two instructions that allow.
        let length = checks.len();
        for (i, check) in checks.iter_mut().enumerate() {
            if matches!(check.code, UNLESS_NUMBER | UNLESS_REGISTER) {
                check.offset = i16::try_from(length - i - 1 + 2).unwrap_or(i16::MAX);
            }
        }
        out.extend(checks);
        out.extend([op(SET, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
    }
    out.extend([op(SET, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    out
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// A program that the kernel has checked, not yet attached.
pub(crate) struct Filter(OwnedFd);

impl Filter {
    /// The usual rules and `extra`.
    ///
    /// # Errors
    /// When a rule is malformed, or the kernel has no such programs or does not let us load them.
    pub(crate) fn load(extra: &[String]) -> io::Result<Self> {
        let rules = USUAL
            .into_iter()
            .chain(extra.iter().map(String::as_str))
            .map(|text| {
                Rule::parse(text).ok_or_else(|| {
                    let why = format!("malformed device rule {text:?}");
                    io::Error::new(io::ErrorKind::InvalidInput, why)
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let program = program(&rules);
        let load = Load {
            kind: 15, // BPF_PROG_TYPE_CGROUP_DEVICE
            count: u32::try_from(program.len()).map_err(io::Error::other)?,
            instructions: program.as_ptr() as u64,
            license: c"Apache".as_ptr() as u64,
            ..Load::default()
        };
        // SAFETY: `load` is the kernel's structure of the given size; what it points to lives through the call.
        let fd = unsafe {
            let size = std::mem::size_of::<Load>();
            sys::own(libc::syscall(libc::SYS_bpf, 5, &raw const load, size) as i64)?
        };
        Ok(Self(fd))
    }

    /// Has the kernel ask the program about each access from the group; programs of groups above go on being asked too.
    pub(crate) fn attach(&self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(io::Error::other);
        let attach = Attach {
            target: number(cgroup)?,
            program: number(self.0.as_fd())?,
            kind: 6,  // BPF_CGROUP_DEVICE
            flags: 2, // BPF_F_ALLOW_MULTI
        };
        // SAFETY: `attach` is the kernel's structure of the given size.
        sys::cvt(unsafe {
            let size = std::mem::size_of::<Attach>();
            libc::syscall(libc::SYS_bpf, 8, &raw const attach, size)
        } as i64)
        .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with the few instructions that are used.
    fn run(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let (mut registers, mut at) = ([0_i64; 6], 0);
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            match i.code {
                LOAD => {
                    registers[to] = match i.offset {
                        0 => access << 16 | kind,
                        4 => major,
                        _ => minor,
                    }
                    .into();
                }
                AND => registers[to] &= i64::from(i.number),
                SHIFT_RIGHT => registers[to] >>= i.number,
                MOVE => registers[to] = registers[from],
                SET => registers[to] = i.number.into(),
                UNLESS_NUMBER if registers[to] != i64::from(i.number) => at += i.offset as usize,
                UNLESS_REGISTER if registers[to] != registers[from] => at += i.offset as usize,
                UNLESS_NUMBER | UNLESS_REGISTER => {}
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_says_what_the_rules_say() {
        let rules: Vec<Rule> = USUAL
            .into_iter()
            .chain(["b 8:1 r"])
            .map(|r| Rule::parse(r).unwrap())
            .collect();
        let program = program(&rules);
        let asked = |kind, access, major, minor| run(&program, kind, access, major, minor);
        assert!(asked(CHAR, READ | WRITE, 1, 3), "/dev/null");
        assert!(asked(CHAR, READ | WRITE, 136, 7), "a terminal");
        assert!(asked(CHAR, MAKE, 10, 200) && asked(BLOCK, MAKE, 8, 0));
        assert!(!asked(CHAR, READ, 1, 1), "/dev/mem");
        assert!(!asked(CHAR, READ | MAKE, 1, 1));
        assert!(!asked(BLOCK, READ, 1, 3), "a block device of these numbers");
        assert!(asked(BLOCK, READ, 8, 1) && !asked(BLOCK, WRITE, 8, 1));
        assert!(!asked(BLOCK, READ | WRITE, 8, 1) && !asked(BLOCK, READ, 8, 0));
        assert!(usual(1, 3) && usual(136, 9) && !usual(1, 1) && !usual(8, 0));
        for bad in ["", "c", "x 1:3 r", "c 1 r", "c 1:y r", "c 1:3 q"] {
            assert_eq!(Rule::parse(bad), None, "{bad:?}");
        }
    }

    /// Needs root and a cgroup v2 hierarchy, which may lie beside those of version 1.
    #[test]
    fn the_kernel_asks_the_program() {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let Some(root) = roots
            .into_iter()
            .find(|r| std::path::Path::new(r).join("cgroup.controllers").exists())
        else {
            eprintln!("no cgroup v2 hierarchy here");
            return;
        };
        let group = format!("{root}/skiff-test-devices-{}", std::process::id());
        std::fs::create_dir(&group).unwrap();
        let dir = std::fs::File::open(&group).unwrap();
        Filter::load(&[]).unwrap().attach(dir.as_fd()).unwrap();
        let script = "echo $$ > $0/cgroup.procs && echo x > /dev/null && echo null; \
            head -c 1 /dev/zero | wc -c; true < /dev/kmsg && echo open";
        let output = std::process::Command::new("sh")
            .args(["-c", script, &group])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut tries = 0;
        while std::fs::remove_dir(&group).is_err() && tries < 100 {
            tries += 1;
            std::thread::yield_now();
        }
        assert_eq!(text, "null\n1\n");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains("Operation not permitted"), "{errors}");
    }
}
