//! What a container's process is to be, decided from its config, its image and its sandbox. Pure.

use crate::image::ProcessDefaults;
use crate::record::ProcessSpec;
use crate::types::{ContainerConfig, SeccompProfile};
use crate::{Error, Result, seccomp};

const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// What containers have unless told otherwise.
const USUAL: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

fn capability(name: &str) -> Result<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let n = CAPABILITIES.iter().position(|c| *c == short);
    n.map(|n| 1 << n)
        .ok_or_else(|| Error::InvalidArgument(format!("unknown capability {name:?}")))
}

/// The capabilities of a container; `mknod` says whether device access is restricted otherwise: with neither, a node for
/// the machine's disk would be one command away.
pub(super) fn capabilities(config: &ContainerConfig, mknod: bool) -> Result<u64> {
    let all = (1_u64 << CAPABILITIES.len()) - 1;
    let security = &config.linux.security_context;
    if security.privileged {
        return Ok(all);
    }
    let is_all = |c: &String| c.eq_ignore_ascii_case("ALL");
    let mut set = 0;
    for name in USUAL.iter().filter(|n| mknod || **n != "MKNOD") {
        set |= capability(name)?;
    }
    if security.add_capabilities.iter().any(is_all) {
        set = all;
    }
    if security.drop_capabilities.iter().any(is_all) {
        set = 0;
    }
    for name in security.add_capabilities.iter().filter(|c| !is_all(c)) {
        set |= capability(name)?;
    }
    for name in security.drop_capabilities.iter().filter(|c| !is_all(c)) {
        set &= !capability(name)?;
    }
    if !mknod && set & capability("MKNOD")? != 0 {
        return Err(Error::FailedPrecondition(
            "MKNOD needs a device filter, which this machine does not offer; drop it, or run privileged".into(),
        ));
    }
    Ok(set)
}

/// The first process. `profile` reads a seccomp profile's file.
pub(super) fn process(
    config: &ContainerConfig,
    image: &ProcessDefaults,
    hostname: &str,
    mknod: bool,
    profile: impl Fn(&std::path::Path) -> Result<Vec<u8>>,
) -> Result<ProcessSpec> {
    let security = &config.linux.security_context;
    let mut args = config.command.clone();
    if args.is_empty() {
        args = image.entrypoint.clone().unwrap_or_default();
        args.extend(if config.args.is_empty() {
            image.cmd.clone().unwrap_or_default()
        } else {
            config.args.clone()
        });
    } else {
        args.extend(config.args.iter().cloned());
    }
    if args.is_empty() {
        return Err(Error::InvalidArgument(
            "no command specified, neither by the container nor by its image".into(),
        ));
    }
    let mut env: Vec<_> = image
        .env
        .iter()
        .filter_map(|e| e.split_once('='))
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect();
    env.push(("HOSTNAME".into(), hostname.to_owned()));
    env.extend(config.envs.iter().cloned());
    let capabilities = capabilities(config, mknod)?;
    let filter = match &security.seccomp {
        _ if security.privileged => None,
        SeccompProfile::Unconfined => None,
        SeccompProfile::RuntimeDefault => Some(seccomp::runtime_default(capabilities)),
        SeccompProfile::Localhost(path) => Some(seccomp::localhost(&profile(path)?)?),
    };
    let user = match security.run_as_username.as_str() {
        "" => image.user.clone(),
        name => name.to_owned(),
    };
    Ok(ProcessSpec {
        args,
        env,
        cwd: [&config.working_dir, &image.working_dir]
            .into_iter()
            .find(|d| !d.is_empty())
            .map_or("/".into(), Clone::clone),
        tty: config.tty,
        privileged: security.privileged,
        uid: security.run_as_user,
        user,
        run_as_group: security.run_as_group,
        supplemental_groups: security.supplemental_groups.clone(),
        supplemental_groups_strict: security.supplemental_groups_strict,
        capabilities,
        no_new_privs: security.no_new_privs,
        seccomp: filter.map(|f| f.iter().map(|b| format!("{b:02x}")).collect()),
        oom_score_adj: config.linux.resources.oom_score_adj,
    })
}

/// `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.
pub(super) fn signal(name: &str) -> Option<i32> {
    let name = name.trim().to_ascii_uppercase();
    if let Ok(n) = name.parse() {
        return (1..=64).contains(&n).then_some(n);
    }
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+')?.parse().ok()?
        };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    Some(match name {
        "HUP" => libc::SIGHUP,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "ABRT" => libc::SIGABRT,
        "KILL" => libc::SIGKILL,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "PIPE" => libc::SIGPIPE,
        "ALRM" => libc::SIGALRM,
        "TERM" => libc::SIGTERM,
        "CONT" => libc::SIGCONT,
        "STOP" => libc::SIGSTOP,
        "WINCH" => libc::SIGWINCH,
        "PWR" => libc::SIGPWR,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_args_replace_as_the_api_says() {
        let image = ProcessDefaults {
            entrypoint: Some(vec!["e".into()]),
            cmd: Some(vec!["c".into()]),
            ..ProcessDefaults::default()
        };
        let args = |command: &[&str], args: &[&str]| {
            let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
            let config = ContainerConfig {
                command: own(command),
                args: own(args),
                ..ContainerConfig::default()
            };
            process(&config, &image, "h", true, |_| Ok(vec![]))
                .unwrap()
                .args
                .join(" ")
        };
        assert_eq!(args(&[], &[]), "e c");
        assert_eq!(args(&["x"], &[]), "x");
        assert_eq!(args(&[], &["y"]), "e y");
        assert_eq!(args(&["x"], &["y"]), "x y");
    }

    #[test]
    fn signals_and_capabilities_have_their_names() {
        assert_eq!(signal("SIGRTMIN+3"), Some(37));
        assert_eq!(
            (signal("term"), signal("9"), signal("X"), signal("0")),
            (Some(15), Some(9), None, None)
        );
        let mut config = ContainerConfig::default();
        config.linux.security_context.drop_capabilities = vec!["ALL".into()];
        config.linux.security_context.add_capabilities = vec!["NET_ADMIN".into()];
        assert_eq!(capabilities(&config, true).unwrap(), 1 << 12);
        config.linux.security_context.add_capabilities = vec!["MKNOD".into()];
        assert!(capabilities(&config, true).is_ok());
        assert!(capabilities(&config, false).is_err());
        config.linux.security_context.add_capabilities = vec!["NOPE".into()];
        assert!(capabilities(&config, true).is_err());
    }
}
