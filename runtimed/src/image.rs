//! The image store: what images there are, and their unpacked layers.
//!
//! Owns `ROOT/images`. Each layer is unpacked once, under its chain id, and is complete
//! and on disk before any row names it (unpack, sync, rename, sync the directory, commit).
//! Must never know of containers; whoever removes an image says which are needed.
//!
//! ```text
//! ROOT/images/layers/<chain id>/   an unpacked layer, a lower directory of overlayfs
//! ROOT/images/tmp/                 what is being made; emptied at start
//! ```
//!
//! **Invariant:** one thread at a time changes the store. Readers see a snapshot.

pub(crate) mod archive;
mod health;
pub(crate) mod import;
pub(crate) mod layer;
pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use oci_spec::image::ImageConfiguration;

use self::archive::{Archive, ArchiveError, PlannedImage};
use self::import::ChangeError;
use self::layer::LayerError;
use self::reader::{Hashing, decompress, sha256};
use self::record::{ImageConfig, ImageRecord, LayerRecord, RECORD_VERSION};
use self::reference::{Reference, ReferenceError};
use crate::port::parse_exposed;
use crate::store::{Store, StoreError};

/// The most that the environment of an image may hold.
const MAX_ENV_BYTES: usize = 1 << 20;
/// How many hexadecimal digits an id prefix has at least.
const MIN_ID_PREFIX: usize = 2;

/// Why a request about images failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("no image `{reference}` is in the store; load one with: linkspan load -i ARCHIVE")]
    NotFound { reference: String },
    #[error("the image id `{prefix}` is ambiguous: it begins {count} ids")]
    Ambiguous { prefix: String, count: usize },
    #[error("the archive is refused")]
    Archive { source: ArchiveError },
    #[error("the archive is refused: its layer {number} cannot be unpacked")]
    Layer { number: usize, source: LayerError },
    #[error("the archive is refused: its layer {number} has the digest {found}, not {wanted}")]
    LayerDigest {
        number: usize,
        found: String,
        wanted: String,
    },
    #[error("the archive is refused: {rule}")]
    Refused { rule: String },
    #[error("read the archive")]
    Read { source: io::Error },
    #[error(
        "image `{image}` has several references ({references}); name the one to remove, or force all with -f"
    )]
    SeveralReferences { image: String, references: String },
    #[error(
        "image `{image}` is needed by container `{container}`; remove that first: linkspan rm {container}"
    )]
    InUse { image: String, container: String },
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{act} in the image store")]
    Files {
        act: &'static str,
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, ImageError>;

/// What an archive held.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) id: String,
    pub(crate) references: Vec<String>,
}

/// What the removal of an image removed.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    pub(crate) untagged: Vec<String>,
    pub(crate) deleted: Vec<String>,
}

/// The image store.
#[derive(Debug)]
pub(crate) struct Images {
    directory: PathBuf,
    store: Arc<Store>,
    catalog: RwLock<Catalog>,
    /// Held while the store changes.
    change: Mutex<()>,
}

#[derive(Debug, Default, Clone)]
struct Catalog {
    by_id: BTreeMap<String, Arc<ImageRecord>>,
    references: BTreeMap<String, String>,
}

/// The processor architecture of this build, as Go and OCI name it.
pub(crate) fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Images {
    /// Opens the store below `root`, and removes what an interrupted change left.
    pub(crate) fn open(root: &Path, store: Arc<Store>) -> Result<Self> {
        let directory = root.join("images");
        let files = |act| move |source| ImageError::Files { act, source };
        layer::remove_tree(&directory.join("tmp")).map_err(files("remove temporary files"))?;
        for name in ["layers", "tmp"] {
            fs::create_dir_all(directory.join(name)).map_err(files("make a directory"))?;
        }
        let mut catalog = Catalog::default();
        for image in store.images()? {
            catalog.by_id.insert(image.id.clone(), Arc::new(image));
        }
        catalog.references = store.references()?.into_iter().collect();
        let images = Self {
            directory,
            store,
            catalog: RwLock::new(catalog),
            change: Mutex::new(()),
        };
        images.remove_unused_layers()?;
        Ok(images)
    }

    /// The image that a reference, an id or a unique id prefix stands for.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<ImageRecord>> {
        self.snapshot().find(text)
    }

    /// All images with their references, newest first.
    pub(crate) fn list(&self) -> Vec<(Arc<ImageRecord>, Vec<String>)> {
        let catalog = self.snapshot();
        let mut images: Vec<_> = catalog
            .by_id
            .values()
            .map(|image| (Arc::clone(image), catalog.references_of(&image.id)))
            .collect();
        images.sort_by(|a, b| {
            b.0.created_at_ns
                .cmp(&a.0.created_at_ns)
                .then(a.1.cmp(&b.1))
        });
        images
    }

    /// The references of an image.
    pub(crate) fn references_of(&self, id: &str) -> Vec<String> {
        self.snapshot().references_of(id)
    }

    /// The directories of the layers of an image, uppermost first.
    pub(crate) fn lower_dirs(&self, image: &ImageRecord) -> Vec<String> {
        let path = |layer: &LayerRecord| {
            self.layer_dir(&layer.chain_id)
                .to_string_lossy()
                .into_owned()
        };
        image.layers.iter().rev().map(path).collect()
    }

    /// Reads an image archive, and keeps its images. Blocks.
    pub(crate) fn load(&self, source: impl Read + Send) -> Result<Vec<Loaded>> {
        let spool = self.spool(source)?;
        let archive = Archive::open(spool).map_err(|source| ImageError::Archive { source })?;
        let plan = archive
            .plan()
            .map_err(|source| ImageError::Archive { source })?;
        let _changing = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.keep(&archive, &plan);
        if result.is_err() {
            self.remove_unused_layers()?;
        }
        result
    }

    /// Makes an image of the archive of a root filesystem. Blocks.
    pub(crate) fn import(
        &self,
        source: impl Read + Send,
        reference: Option<&Reference>,
        changes: &[String],
        message: &str,
    ) -> Result<String> {
        let config = import::parse_changes(changes)?;
        let _changing = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let source = decompress(source).map_err(|source| ImageError::Read { source })?;
        let (unpacked, size_bytes, diff_id) = self.unpack(source, 1)?;
        if size_bytes == 0 && is_empty(unpacked.path()) {
            return Err(ImageError::Refused {
                rule: "it holds no files".to_owned(),
            });
        }
        let created = jiff::Timestamp::now().to_string();
        let configuration = import::image_configuration(config, &diff_id, &created, message)
            .and_then(|config| config.to_string().map(|text| (config, text)));
        let (configuration, text) = configuration.map_err(|e| ImageError::Refused {
            rule: e.to_string(),
        })?;
        let layer = LayerRecord {
            chain_id: diff_id.clone(),
            diff_id,
            size_bytes,
        };
        self.publish_layer(unpacked, &layer)?;
        let id = sha256(text.as_bytes());
        let image = image_record(id.clone(), &configuration, vec![layer])?;
        let references = reference
            .map(|r| (r.to_string(), id.clone()))
            .into_iter()
            .collect();
        self.commit(vec![image], references)?;
        Ok(id)
    }

    /// Gives an image another reference. Blocks.
    pub(crate) fn tag(&self, image: &str, reference: &Reference) -> Result<String> {
        let _changing = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.find(image)?.id.clone();
        self.commit(Vec::new(), vec![(reference.to_string(), id.clone())])?;
        Ok(id)
    }

    /// Removes a reference, and the image with its last one. Blocks.
    ///
    /// `user_of` names a container that needs the image with the id it is given.
    pub(crate) fn remove(
        &self,
        text: &str,
        force: bool,
        user_of: impl Fn(&str) -> Option<String>,
    ) -> Result<Removed> {
        let _changing = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let catalog = self.snapshot();
        let image = catalog.find(text)?;
        let all = catalog.references_of(&image.id);
        let named = text.parse::<Reference>().map(|r| r.to_string()).ok();
        let untagged = match named.filter(|reference| all.contains(reference)) {
            Some(reference) => vec![reference],
            None if all.len() > 1 && !force => {
                return Err(ImageError::SeveralReferences {
                    image: text.to_owned(),
                    references: all.join(", "),
                });
            }
            None => all.clone(),
        };
        let last = untagged.len() == all.len();
        if last && let Some(container) = user_of(&image.id) {
            return Err(ImageError::InUse {
                image: text.to_owned(),
                container,
            });
        }
        self.store
            .remove_image(&untagged, last.then_some(image.id.as_str()))?;
        self.change_catalog(|catalog| {
            catalog
                .references
                .retain(|reference, _| !untagged.contains(reference));
            if last {
                catalog.by_id.remove(&image.id);
            }
        });
        let mut deleted = Vec::new();
        if last {
            deleted.push(image.id.clone());
            deleted.extend(self.remove_unused_layers()?);
        }
        Ok(Removed { untagged, deleted })
    }

    fn snapshot(&self) -> Catalog {
        self.catalog
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn change_catalog(&self, change: impl FnOnce(&mut Catalog)) {
        change(&mut self.catalog.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn layer_dir(&self, chain_id: &str) -> PathBuf {
        self.directory
            .join("layers")
            .join(chain_id.trim_start_matches("sha256:"))
    }

    /// Writes the uncompressed archive to a file without a name, since its manifest may
    /// come last.
    fn spool(&self, source: impl Read + Send) -> Result<File> {
        let files = |source| ImageError::Files {
            act: "make a temporary file",
            source,
        };
        let mut spool = tempfile::tempfile_in(self.directory.join("tmp")).map_err(files)?;
        let mut source = decompress(source).map_err(|source| ImageError::Read { source })?;
        io::copy(&mut source, &mut spool).map_err(|source| ImageError::Read { source })?;
        spool.rewind().map_err(files)?;
        Ok(spool)
    }

    fn keep(&self, archive: &Archive, plan: &[PlannedImage]) -> Result<Vec<Loaded>> {
        let mut images = Vec::new();
        let mut references = Vec::new();
        let mut loaded = Vec::new();
        for planned in plan {
            let mut names = Vec::new();
            for text in &planned.references {
                names.push(text.parse::<Reference>()?.to_string());
            }
            let layers = self.keep_layers(archive, planned)?;
            let mut record = image_record(planned.id.clone(), &planned.config, layers)?;
            record.config.health_check.clone_from(&planned.health_check);
            images.push(record);
            references.extend(names.iter().map(|name| (name.clone(), planned.id.clone())));
            loaded.push(Loaded {
                id: planned.id.clone(),
                references: names,
            });
        }
        self.commit(images, references)?;
        Ok(loaded)
    }

    fn keep_layers(&self, archive: &Archive, planned: &PlannedImage) -> Result<Vec<LayerRecord>> {
        let known: BTreeMap<String, u64> = self
            .snapshot()
            .by_id
            .values()
            .flat_map(|image| {
                image
                    .layers
                    .iter()
                    .map(|l| (l.chain_id.clone(), l.size_bytes))
            })
            .collect();
        let mut layers: Vec<LayerRecord> = Vec::new();
        for (number, layer) in (1..).zip(&planned.layers) {
            let chain_id = chain_id(layers.last().map(|l| l.chain_id.as_str()), &layer.diff_id);
            let mut record = LayerRecord {
                diff_id: layer.diff_id.clone(),
                chain_id,
                size_bytes: 0,
            };
            if let Some(size) = known.get(&record.chain_id) {
                record.size_bytes = *size;
                layers.push(record);
                continue;
            }
            let section = archive
                .section(&layer.member)
                .map_err(|source| ImageError::Archive { source })?;
            let source = decompress(section).map_err(|source| ImageError::Read { source })?;
            let (unpacked, size_bytes, found) = self.unpack(source, number)?;
            if found != layer.diff_id {
                return Err(ImageError::LayerDigest {
                    number,
                    found,
                    wanted: layer.diff_id.clone(),
                });
            }
            record.size_bytes = size_bytes;
            self.publish_layer(unpacked, &record)?;
            layers.push(record);
        }
        Ok(layers)
    }

    /// Unpacks an uncompressed layer; returns the directory, the size and the digest.
    fn unpack(
        &self,
        source: impl Read + Send,
        number: usize,
    ) -> Result<(tempfile::TempDir, u64, String)> {
        let target = tempfile::tempdir_in(self.directory.join("tmp")).map_err(|source| {
            ImageError::Files {
                act: "make a directory",
                source,
            }
        })?;
        fs::set_permissions(
            target.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .map_err(|source| ImageError::Files {
            act: "set a mode",
            source,
        })?;
        let mut hashing = Hashing::new(source);
        let size = jail::unpack(&mut hashing, target.path())
            .map_err(|source| ImageError::Layer { number, source })?;
        let digest = hashing
            .finish()
            .map_err(|source| ImageError::Read { source })?;
        Ok((target, size, digest))
    }

    /// Makes an unpacked layer durable and gives it its name.
    fn publish_layer(&self, unpacked: tempfile::TempDir, layer: &LayerRecord) -> Result<()> {
        let files = |act| move |source| ImageError::Files { act, source };
        let target = self.layer_dir(&layer.chain_id);
        if target.exists() {
            // Left by a change that was interrupted before its commit.
            layer::remove_tree(&target).map_err(files("remove an unfinished layer"))?;
        }
        let parent =
            File::open(self.directory.join("layers")).map_err(files("open a directory"))?;
        rustix::fs::syncfs(&parent).map_err(|e| files("sync a layer")(e.into()))?;
        fs::rename(unpacked.keep(), &target).map_err(files("rename a layer"))?;
        parent.sync_all().map_err(files("sync a directory"))
    }

    fn commit(&self, images: Vec<ImageRecord>, references: Vec<(String, String)>) -> Result<()> {
        self.store.put_images(&images, &references)?;
        self.change_catalog(|catalog| {
            for image in images {
                catalog.by_id.insert(image.id.clone(), Arc::new(image));
            }
            catalog.references.extend(references);
        });
        Ok(())
    }

    /// Removes the layers that no image names; returns their chain ids.
    fn remove_unused_layers(&self) -> Result<Vec<String>> {
        let catalog = self.snapshot();
        let used: BTreeSet<PathBuf> = catalog
            .by_id
            .values()
            .flat_map(|image| {
                image
                    .layers
                    .iter()
                    .map(|layer| self.layer_dir(&layer.chain_id))
            })
            .collect();
        let files = |source| ImageError::Files {
            act: "remove unused layers",
            source,
        };
        let mut removed = Vec::new();
        for entry in fs::read_dir(self.directory.join("layers")).map_err(files)? {
            let path = entry.map_err(files)?.path();
            if used.contains(&path) {
                continue;
            }
            layer::remove_tree(&path).map_err(files)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            removed.push(format!("sha256:{name}"));
        }
        Ok(removed)
    }
}

impl Catalog {
    fn find(&self, text: &str) -> Result<Arc<ImageRecord>> {
        let reference = text.parse::<Reference>();
        let by_reference = reference
            .as_ref()
            .ok()
            .and_then(|r| self.references.get(&r.to_string()));
        if let Some(image) = by_reference.and_then(|id| self.by_id.get(id)) {
            return Ok(Arc::clone(image));
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() < MIN_ID_PREFIX || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(match reference {
                Ok(reference) => ImageError::NotFound {
                    reference: reference.to_string(),
                },
                Err(error) => ImageError::Reference(error),
            });
        }
        let prefix = format!("sha256:{hex}");
        let mut fitting = self
            .by_id
            .range(prefix.clone()..)
            .take_while(|(id, _)| id.starts_with(&prefix));
        match (fitting.next(), fitting.count()) {
            (Some((_, image)), 0) => Ok(Arc::clone(image)),
            (Some(_), more) => Err(ImageError::Ambiguous {
                prefix: text.to_owned(),
                count: more + 1,
            }),
            (None, _) => Err(ImageError::NotFound {
                reference: text.to_owned(),
            }),
        }
    }

    fn references_of(&self, id: &str) -> Vec<String> {
        self.references
            .iter()
            .filter(|(_, of)| *of == id)
            .map(|(r, _)| r.clone())
            .collect()
    }
}

/// The chain id of a layer upon its parent. Source: OCI image specification, "Layer ChainID".
fn chain_id(parent: Option<&str>, diff_id: &str) -> String {
    match parent {
        None => diff_id.to_owned(),
        Some(parent) => sha256(format!("{parent} {diff_id}").as_bytes()),
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn image_record(
    id: String,
    configuration: &ImageConfiguration,
    layers: Vec<LayerRecord>,
) -> Result<ImageRecord> {
    let refused = |rule: String| ImageError::Refused { rule };
    let config = configuration.config().clone().unwrap_or_default();
    let env = config.env().clone().unwrap_or_default();
    if env.iter().map(String::len).sum::<usize>() > MAX_ENV_BYTES {
        return Err(refused("its environment is larger than 1 MiB".to_owned()));
    }
    if env.iter().any(|entry| entry.contains('\0')) {
        return Err(refused("its environment has a zero byte".to_owned()));
    }
    let mut exposed = BTreeSet::new();
    for text in config.exposed_ports().clone().unwrap_or_default() {
        exposed.extend(parse_exposed(&text).map_err(|e| refused(e.to_string()))?);
    }
    let created = configuration
        .created()
        .as_deref()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    Ok(ImageRecord {
        version: RECORD_VERSION,
        id,
        created_at_ns: created.map_or(0, |t| i64::try_from(t.as_nanosecond()).unwrap_or(0)),
        size_bytes: layers.iter().map(|layer| layer.size_bytes).sum(),
        architecture: configuration.architecture().to_string(),
        os: configuration.os().to_string(),
        config: ImageConfig {
            env,
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            command: config.cmd().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            exposed: exposed.into_iter().collect(),
            labels: config
                .labels()
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            stop_signal: config.stop_signal().clone().unwrap_or_default(),
            health_check: None,
        },
        layers,
    })
}

mod jail;

#[cfg(test)]
mod tests;
