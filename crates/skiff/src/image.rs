//! `skiff image`: the images of this node, through the running server.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;
use skiff_http::{Body, body};
use tokio::io::AsyncReadExt as _;

use crate::{Common, Failure, admin};

/// What to do with images.
#[derive(Subcommand)]
pub enum Action {
    /// Load images from archives (docker save, or an OCI layout)
    Import {
        /// The archives; - for standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List the images
    List,
    /// Remove an image
    Rm {
        /// The image's reference
        reference: String,
    },
}

/// Carries out `action`.
///
/// # Errors
/// When no server runs, a file cannot be read, or the runtime refuses.
pub fn run(common: &Common, action: &Action) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::new)?;
    runtime.block_on(async {
        let dir = &common.data_dir;
        let empty = skiff_http::empty;
        match action {
            Action::List => print!(
                "{}",
                admin::ask(dir, Method::GET, "/images", empty()).await?
            ),
            Action::Rm { reference } => {
                admin::ask(
                    dir,
                    Method::DELETE,
                    &format!("/images?{reference}"),
                    empty(),
                )
                .await?;
                println!("removed {reference}");
            }
            Action::Import { files } => {
                for file in files {
                    let body = stream(file).await?;
                    let names = admin::ask(dir, Method::POST, "/images", body)
                        .await
                        .map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
                    for name in names.lines() {
                        println!("imported {name}");
                    }
                }
            }
        }
        Ok(())
    })
}

async fn stream(file: &Path) -> Result<Body, Failure> {
    let mut source: Box<dyn tokio::io::AsyncRead + Send + Unpin> = if file == Path::new("-") {
        Box::new(tokio::io::stdin())
    } else {
        let open = tokio::fs::File::open(file).await;
        Box::new(open.map_err(|e| Failure::new(format!("cannot open {}: {e}", file.display())))?)
    };
    let (sender, body) = body::channel(8);
    tokio::spawn(async move {
        loop {
            let mut buffer = vec![0; 256 * 1024];
            match source.read(&mut buffer).await {
                // An archive that breaks off is refused at the other end: its index or a layer is missing.
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    buffer.truncate(n);
                    if sender.send(buffer.into()).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    Ok(body)
}
