//! `skiff-bench`: measures a running cluster (any Kubernetes) and the machine beside it, so that figures are ratios of one
//! run. Prints a table, or with `--json` one line a figure.

mod api;
mod bare;
mod connection;
mod etcd;
mod fanout;
mod idle;
mod kubeconfig;
mod pods;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Any failure, as a sentence.
type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(name = "skiff-bench", version, about = "Measures a Kubernetes cluster")]
struct Cli {
    /// The cluster to measure
    #[arg(long, env = "KUBECONFIG", global = true)]
    kubeconfig: Option<PathBuf>,
    /// One JSON line a figure
    #[arg(long, global = true)]
    json: bool,
    /// How long each rate is measured, in seconds
    #[arg(long, default_value_t = 5, global = true)]
    seconds: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Start a server in an empty directory and wait for its Ready node (run it in namespaces of its own)
    Boot {
        /// The program
        #[arg(long)]
        skiff: PathBuf,
        /// A directory that does not exist yet
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Memory, CPU and disk writes of a quiet server
    Idle {
        /// Its process
        #[arg(long)]
        pid: u32,
    },
    /// Durable POSTs, GETs and a LIST, beside the disk's syncs and etcd's puts
    Api {
        /// An etcd to compare with, http://127.0.0.1:2379
        #[arg(long)]
        etcd: Option<String>,
        /// A directory on the disk to compare with
        #[arg(long)]
        disk: Option<PathBuf>,
    },
    /// How long a change takes to all who watch
    Fanout {
        /// How many watch
        #[arg(long, default_value_t = 100)]
        watchers: usize,
        /// How many changes a second
        #[arg(long, default_value_t = 200)]
        rate: u32,
    },
    /// Be a bare server to compare with
    #[command(hide = true)]
    Bare,
    /// From create to Running, with the image present
    Pods {
        /// The image, which runs without arguments
        #[arg(long, default_value = "localhost/skiff-demo:1")]
        image: String,
        /// How many, one after another
        #[arg(long, default_value_t = 20)]
        count: u32,
    },
}

/// Prints figures as they come.
pub struct Report {
    json: bool,
}

impl Report {
    /// One figure under its fixed name.
    pub fn figure(&self, name: &str, value: f64, unit: &str) {
        if self.json {
            println!("{{\"name\":\"{name}\",\"value\":{value:.3},\"unit\":\"{unit}\"}}");
        } else {
            println!("{name:<24} {value:>12.2} {unit}");
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(Error::from)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Error> {
    let report = Report { json: cli.json };
    let cluster = || {
        let path = cli
            .kubeconfig
            .clone()
            .ok_or("which cluster? name its kubeconfig with --kubeconfig")?;
        kubeconfig::read(&path)
    };
    let span = std::time::Duration::from_secs(cli.seconds);
    match cli.what {
        What::Boot { skiff, data_dir } => idle::boot(&report, &skiff, &data_dir).await,
        What::Idle { pid } => idle::idle(&report, pid, span).await,
        What::Api { etcd, disk } => {
            api::run(&report, &cluster()?, span, etcd.as_deref(), disk.as_deref()).await
        }
        What::Fanout { watchers, rate } => {
            fanout::run(&report, &cluster()?, watchers, rate, span).await
        }
        What::Bare => bare::serve().await,
        What::Pods { image, count } => pods::run(&report, &cluster()?, &image, count).await,
    }
}
