//! The `skiff` program: every component of Kubernetes behind one command line (DESIGN §12).

mod admin;
mod check;
mod component;
mod config;
mod image;
mod logging;
mod parts;
mod server;
mod traces;
mod uninstall;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: runtime::ByRole<mimalloc::MiMalloc> = runtime::ByRole(mimalloc::MiMalloc);

/// Kubernetes, whole, in one program.
#[derive(Parser)]
#[command(name = "skiff", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Where the cluster's state lives
    #[arg(
        long,
        env = "SKIFF_DATA_DIR",
        default_value = "/var/lib/skiff",
        global = true
    )]
    pub data_dir: PathBuf,
    /// Settings by their flags' names, YAML; /etc/skiff/config.yaml if it exists
    #[arg(long, env = "SKIFF_CONFIG", global = true)]
    pub config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a cluster: control plane and node in this process
    Server {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flags: server::Flags,
    },
    /// Run a kubelet with its container runtime and Pod network, for an API server elsewhere
    Kubelet {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flags: component::KubeletFlags,
    },
    /// Run the Services' proxy and the routes to other nodes' Pods
    Proxy {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flags: component::ProxyFlags,
    },
    /// Run the cluster's DNS on its address, for this node
    Dns {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flags: component::DnsFlags,
    },
    /// Run the scheduler
    Scheduler {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flags: component::SchedulerFlags,
    },
    /// Run the controllers, all as the kubeconfig's user
    ControllerManager {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flags: component::ControllersFlags,
    },
    /// Print the administrator's kubeconfig
    Kubeconfig {
        #[command(flatten)]
        common: Common,
        /// Add it to ~/.kube/config (or $KUBECONFIG) instead
        #[arg(long)]
        merge: bool,
    },
    /// Container images of this node
    Image {
        #[command(flatten)]
        common: Common,
        #[command(subcommand)]
        action: image::Action,
    },
    /// Say what this machine lacks
    Check {
        #[command(flatten)]
        common: Common,
    },
    /// Remove everything a server left on this machine
    Uninstall {
        #[command(flatten)]
        common: Common,
        /// Ask nothing
        #[arg(long)]
        yes: bool,
    },
    /// Print the versions of skiff and of the Kubernetes it serves
    Version,
}

/// What a person is told when a command fails: what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", .hint.as_ref().map(|h| format!("\n  {h}")).unwrap_or_default())]
pub struct Failure {
    what: String,
    hint: Option<String>,
    usage: bool,
}

impl Failure {
    /// Something went wrong.
    pub fn new(what: impl std::fmt::Display) -> Self {
        Self {
            what: what.to_string(),
            hint: None,
            usage: false,
        }
    }

    /// The command was used wrongly: exit code 2.
    pub fn usage(what: impl std::fmt::Display) -> Self {
        Self {
            usage: true,
            ..Self::new(what)
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

fn main() -> ExitCode {
    // Shims and containers' first processes are this program in another role; they must stay tiny.
    if let Some(code) = runtime::entry() {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    runtime::give_back_soon();
    let arguments = match component::with_settings(&Cli::command(), std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(failure) => return failed(&failure),
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let failed = error.use_stderr();
            // Nothing can be said when the terminal is gone.
            drop(error.print());
            return ExitCode::from(if failed { 2 } else { 0 });
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    eprintln!("error: {failure}");
    ExitCode::from(if failure.usage { 2 } else { 1 })
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Server { common, flags } => server::run(&common, flags),
        Command::Kubelet { common, flags } => component::kubelet(&common, &flags),
        Command::Proxy { common, flags } => component::proxy(&common, &flags),
        Command::Dns { common, flags } => component::dns(&common, &flags),
        Command::Scheduler { common, flags } => component::scheduler(&common, &flags),
        Command::ControllerManager { common, flags } => component::controllers(&common, &flags),
        Command::Kubeconfig { common, merge } => config::kubeconfig(&common, merge),
        Command::Image { common, action } => image::run(&common, &action),
        Command::Check { common } => check::run(&common),
        Command::Uninstall { common, yes } => uninstall::run(&common, yes),
        Command::Version => {
            println!(
                "skiff {} (Kubernetes v{})",
                env!("CARGO_PKG_VERSION"),
                api::KUBERNETES_VERSION
            );
            Ok(())
        }
    }
}
