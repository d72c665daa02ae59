//! `images`, `load`, `import`, `tag` and `rmi`.

use std::process::ExitCode;

use anyhow::{Context, bail};
use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::runtime_v1::import_image_request::Message;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::ps::render;
use super::time::{rfc3339, seconds_since};
use crate::args::{ImagesArguments, ImportArguments, LoadArguments, RmiArguments, TagArguments};
use crate::client::Client;
use crate::error::sentence;
use crate::printer::{self, human_duration, human_size};
use crate::terminal;

/// How much of an archive goes into one message.
const CHUNK_BYTES: usize = 256 << 10;

const COLUMNS: [(&str, &str); 5] = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
];

pub(crate) async fn list(
    mut client: Client,
    arguments: ImagesArguments,
) -> anyhow::Result<ExitCode> {
    let request = wire::ListImagesRequest {
        reference: arguments.reference.unwrap_or_default(),
    };
    let images = client
        .images
        .list_images(request)
        .await?
        .into_inner()
        .images;
    let rows: Vec<Json> = images
        .iter()
        .flat_map(|image| rows(image, arguments.no_trunc))
        .collect();
    let text = match (arguments.quiet, arguments.format.as_deref()) {
        (true, _) => rows
            .iter()
            .map(|row| format!("{}\n", row["ID"].as_str().unwrap_or_default()))
            .collect(),
        (false, Some(format)) => render(format, &rows, &COLUMNS)?,
        (false, None) => render(
            "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
            &rows,
            &COLUMNS,
        )?,
    };
    printer::out(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn rows(image: &wire::Image, whole: bool) -> Vec<Json> {
    let short = image
        .id
        .strip_prefix("sha256:")
        .and_then(|hex| hex.get(..12))
        .unwrap_or(&image.id);
    let row = |repository: &str, tag: &str| {
        json!({
            "Repository": repository,
            "Tag": tag,
            "ID": if whole { image.id.as_str() } else { short },
            "CreatedAt": rfc3339(image.created_at.as_ref()),
            "CreatedSince": match &image.created_at {
                Some(time) => format!("{} ago", human_duration(seconds_since(Some(time)))),
                None => "N/A".to_owned(),
            },
            "Size": human_size(image.size_bytes),
        })
    };
    if image.references.is_empty() {
        return vec![row("<none>", "<none>")];
    }
    image
        .references
        .iter()
        .filter_map(|r| r.rsplit_once(':'))
        .map(|(name, tag)| row(name, tag))
        .collect()
}

/// Sends the pieces of a file; the receiver ends early when the engine refuses it.
fn chunks<T: Send + 'static>(
    mut source: Box<dyn AsyncRead + Send + Unpin>,
    first: Option<T>,
    wrap: fn(Vec<u8>) -> T,
) -> (ReceiverStream<T>, impl Future<Output = std::io::Result<()>>) {
    let (sender, receiver) = mpsc::channel(4);
    let send = async move {
        if let Some(first) = first
            && sender.send(first).await.is_err()
        {
            return Ok(());
        }
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let length = (&mut source)
                .take(CHUNK_BYTES as u64)
                .read_to_end(&mut chunk)
                .await?;
            if length == 0 || sender.send(wrap(chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    (ReceiverStream::new(receiver), send)
}

async fn open(path: Option<&str>) -> anyhow::Result<Box<dyn AsyncRead + Send + Unpin>> {
    match path {
        Some(path) => {
            let file = tokio::fs::File::open(path)
                .await
                .with_context(|| format!("open `{path}`"))?;
            if file.metadata().await?.is_dir() {
                bail!(
                    "`{path}` is a directory; pack it first: tar -c -C {path} . | linkspan import -"
                );
            }
            Ok(Box::new(file))
        }
        None if terminal::stdin_is_terminal() => {
            bail!("standard input is a terminal; name the archive, or pipe it in")
        }
        None => Ok(Box::new(tokio::io::stdin())),
    }
}

pub(crate) async fn load(mut client: Client, arguments: LoadArguments) -> anyhow::Result<ExitCode> {
    let source = open(arguments.input.as_deref()).await?;
    let (stream, send) = chunks(source, None, |chunk| wire::LoadImageRequest { chunk });
    // Both sides run at once; the engine's word counts more than that of a cut sender.
    let (response, sent) = tokio::join!(client.images.load_image(stream), send);
    let loaded = response?.into_inner();
    sent.context("read the archive")?;
    for image in loaded.images {
        if arguments.quiet {
            continue;
        }
        if image.references.is_empty() {
            printer::line(&format!("Loaded image ID: {}", image.id))?;
        }
        for reference in image.references {
            printer::line(&format!("Loaded image: {reference}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn import(
    mut client: Client,
    arguments: ImportArguments,
) -> anyhow::Result<ExitCode> {
    let path = (arguments.file != "-").then_some(arguments.file.as_str());
    let source = open(path).await?;
    let start = wire::ImportImageStart {
        reference: arguments.reference.unwrap_or_default(),
        changes: arguments.change,
        message: arguments.message,
    };
    let first = wire::ImportImageRequest {
        message: Some(Message::Start(start)),
    };
    let (stream, send) = chunks(source, Some(first), |chunk| wire::ImportImageRequest {
        message: Some(Message::Chunk(chunk)),
    });
    let (response, sent) = tokio::join!(client.images.import_image(stream), send);
    let imported = response?.into_inner();
    sent.context("read the archive")?;
    printer::line(&imported.id)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn tag(mut client: Client, arguments: TagArguments) -> anyhow::Result<ExitCode> {
    let TagArguments { image, reference } = arguments;
    client
        .images
        .tag_image(wire::TagImageRequest { image, reference })
        .await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn remove(
    mut client: Client,
    arguments: RmiArguments,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for image in arguments.images {
        let request = wire::RemoveImageRequest {
            image,
            force: arguments.force,
        };
        match client.images.remove_image(request).await {
            Ok(removed) => {
                let wire::RemoveImageResponse { untagged, deleted } = removed.into_inner();
                for reference in untagged {
                    printer::line(&format!("Untagged: {reference}"))?;
                }
                for digest in deleted {
                    printer::line(&format!("Deleted: {digest}"))?;
                }
            }
            Err(status) => {
                printer::talk(&format!("linkspan: {}", sentence(&status.into())));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
