//! The image service.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use linkspan_proto::runtime_v1 as wire;
use linkspan_proto::runtime_v1::image_service_server::ImageService;
use linkspan_proto::time::{from_unix_nanos, timestamp};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::status::{invalid, of_container, of_image};
use crate::engine::Engine;
use crate::image::record::ImageRecord;
use crate::image::reference::Reference;
use crate::image::{ImageError, Images};

type Answer<T> = Result<Response<T>, Status>;

/// How many pieces of an archive may wait to be read.
const QUEUE: usize = 8;

/// The image service.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Images) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, Status> {
        let result = self
            .engine
            .blocking(move |engine| Ok(work(&engine.images)))
            .await;
        result
            .map_err(|e| of_container(&e))?
            .map_err(|e| of_image(&e))
    }

    fn event(&self, action: &str, id: &str, reference: &str) {
        let attributes = BTreeMap::from([("name".to_owned(), reference.to_owned())]);
        self.engine.events.send("image", action, id, attributes);
    }

    fn to_wire(&self, image: &ImageRecord, references: Vec<String>) -> wire::Image {
        let config = &image.config;
        wire::Image {
            id: image.id.clone(),
            references,
            created_at: (image.created_at_ns != 0)
                .then(|| timestamp(from_unix_nanos(image.created_at_ns))),
            size_bytes: i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
            env: config.env.clone(),
            entrypoint: config.entrypoint.clone(),
            command: config.command.clone(),
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            exposed_ports: config.exposed.iter().map(|port| port.to_wire()).collect(),
            labels: config.labels.clone().into_iter().collect(),
            stop_signal: config.stop_signal.clone(),
            layers: image
                .layers
                .iter()
                .map(|layer| layer.diff_id.clone())
                .collect(),
            architecture: image.architecture.clone(),
            os: image.os.clone(),
        }
    }
}

/// Reads the pieces of an archive that a client sends. A client that leaves in the middle
/// is an error, never a shorter archive.
struct Chunks {
    receiver: mpsc::Receiver<Result<Vec<u8>, Status>>,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.current.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => self.current = io::Cursor::new(chunk),
                Some(Err(status)) => return Err(io::Error::other(status.message().to_owned())),
            }
        }
    }
}

/// Turns a client's stream into a reader for blocking code.
fn reader<T: Send + 'static>(
    engine: &Engine,
    mut incoming: Streaming<T>,
    chunk: fn(T) -> Option<Vec<u8>>,
) -> Chunks {
    let (sender, receiver) = mpsc::channel(QUEUE);
    engine.tracker.spawn(async move {
        loop {
            let piece = match incoming.message().await {
                Ok(None) => return,
                Ok(Some(message)) => chunk(message).ok_or_else(|| {
                    Status::invalid_argument("parameters in the middle of a stream")
                }),
                Err(status) => Err(status),
            };
            let failed = piece.is_err();
            if sender.send(piece).await.is_err() || failed {
                return;
            }
        }
    });
    Chunks {
        receiver,
        current: io::Cursor::new(Vec::new()),
    }
}

fn parse_reference(text: &str) -> Result<Reference, Status> {
    text.parse()
        .map_err(|e| of_image(&ImageError::Reference(e)))
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn load_image(
        &self,
        request: Request<Streaming<wire::LoadImageRequest>>,
    ) -> Answer<wire::LoadImageResponse> {
        let reader = reader(&self.engine, request.into_inner(), |message| {
            Some(message.chunk)
        });
        let loaded = self.blocking(|images| images.load(reader)).await?;
        for image in &loaded {
            self.event(
                "load",
                &image.id,
                image.references.first().map_or("", String::as_str),
            );
        }
        let images = loaded
            .into_iter()
            .map(|image| wire::LoadedImage {
                id: image.id,
                references: image.references,
            })
            .collect();
        Ok(Response::new(wire::LoadImageResponse { images }))
    }

    async fn import_image(
        &self,
        request: Request<Streaming<wire::ImportImageRequest>>,
    ) -> Answer<wire::ImportImageResponse> {
        use wire::import_image_request::Message;
        let mut incoming = request.into_inner();
        let Some(Message::Start(start)) = incoming.message().await?.and_then(|m| m.message) else {
            return Err(invalid(
                "the first message of a stream must be its parameters",
            ));
        };
        let reference = match start.reference.as_str() {
            "" => None,
            text => Some(parse_reference(text)?),
        };
        let name = start.reference.clone();
        let reader = reader(&self.engine, incoming, |message| match message.message {
            Some(Message::Chunk(chunk)) => Some(chunk),
            _ => None,
        });
        let id = self
            .blocking(move |images| {
                images.import(reader, reference.as_ref(), &start.changes, &start.message)
            })
            .await?;
        self.event("import", &id, &name);
        Ok(Response::new(wire::ImportImageResponse { id }))
    }

    async fn list_images(
        &self,
        request: Request<wire::ListImagesRequest>,
    ) -> Answer<wire::ListImagesResponse> {
        let wanted = match request.into_inner().reference.as_str() {
            "" => None,
            text => Some((text.contains(':'), parse_reference(text)?)),
        };
        let fits = |reference: &String| match &wanted {
            None => true,
            Some((true, wanted)) => *reference == wanted.to_string(),
            Some((false, wanted)) => reference
                .parse::<Reference>()
                .is_ok_and(|r| r.repository() == wanted.repository()),
        };
        let mut images = Vec::new();
        for (image, references) in self.engine.images.list() {
            let untagged = references.is_empty() && wanted.is_none();
            let references: Vec<String> = references.into_iter().filter(fits).collect();
            if untagged || !references.is_empty() {
                images.push(self.to_wire(&image, references));
            }
        }
        Ok(Response::new(wire::ListImagesResponse { images }))
    }

    async fn get_image(
        &self,
        request: Request<wire::GetImageRequest>,
    ) -> Answer<wire::GetImageResponse> {
        let image = self
            .engine
            .images
            .find(&request.into_inner().image)
            .map_err(|e| of_image(&e))?;
        let references = self.engine.images.references_of(&image.id);
        Ok(Response::new(wire::GetImageResponse {
            image: Some(self.to_wire(&image, references)),
        }))
    }

    async fn tag_image(
        &self,
        request: Request<wire::TagImageRequest>,
    ) -> Answer<wire::TagImageResponse> {
        let wire::TagImageRequest { image, reference } = request.into_inner();
        let parsed = parse_reference(&reference)?;
        let id = self
            .blocking(move |images| images.tag(&image, &parsed))
            .await?;
        self.event("tag", &id, &reference);
        Ok(Response::new(wire::TagImageResponse {}))
    }

    async fn remove_image(
        &self,
        request: Request<wire::RemoveImageRequest>,
    ) -> Answer<wire::RemoveImageResponse> {
        let wire::RemoveImageRequest { image, force } = request.into_inner();
        let users: Vec<(String, String)> = self
            .engine
            .containers
            .views()
            .iter()
            .map(|view| (view.record.image_id.clone(), view.record.name.clone()))
            .collect();
        let user_of = move |id: &str| {
            users
                .iter()
                .find(|(of, _)| of == id)
                .map(|(_, name)| name.clone())
        };
        let removed = self
            .blocking(move |images| images.remove(&image, force, user_of))
            .await?;
        for reference in &removed.untagged {
            self.event("untag", "", reference);
        }
        if let Some(id) = removed.deleted.first() {
            self.event("delete", id, "");
        }
        Ok(Response::new(wire::RemoveImageResponse {
            untagged: removed.untagged,
            deleted: removed.deleted,
        }))
    }
}
