//! The two stores: what must survive a power cut, and what makes sense only while the
//! machine is up.
//!
//! Owns both databases and decides which of them a record belongs to. Knows nothing of
//! containers' lives. Rows are JSON of the versioned types in `container::record` and
//! `image::record`.
//!
//! - durable, `ROOT/runtimed.db`: containers that are not removed by themselves,
//!   images, references, moves of ports that are under way.
//! - volatile, `RUN/runtimed.db`, on a filesystem that a reboot empties: runs, and
//!   containers that remove themselves.
//!
//! **Invariant:** a method that returns `Ok` has committed; one that fails has changed
//! nothing. All methods block: call them where blocking is allowed.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::container::moves::PortMove;
use crate::container::record::{Record, Run};
use crate::image::record::ImageRecord;
use crate::port::Port;

const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");
const RUNS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("runs");
const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
const REFERENCES: TableDefinition<'_, &str, &str> = TableDefinition::new("references");
const MOVES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("moves");

/// The engine's memory.
#[derive(Debug)]
pub(crate) struct Store {
    durable: Database,
    volatile: Database,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("open the database `{}`", path.display())]
    Open {
        path: PathBuf,
        source: Box<redb::Error>,
    },
    #[error("{action} the database")]
    Access {
        action: &'static str,
        source: Box<redb::Error>,
    },
    #[error("read the record `{key}`; it was written by another version or is damaged")]
    Decode {
        key: String,
        source: serde_json::Error,
    },
    #[error("write the record `{key}`")]
    Encode {
        key: String,
        source: serde_json::Error,
    },
}

type Result<T> = std::result::Result<T, StoreError>;

impl Store {
    /// Opens or makes both databases.
    pub(crate) fn open(root: &Path, run: &Path) -> Result<Self> {
        let store = Self {
            durable: open_database(&root.join("runtimed.db"))?,
            volatile: open_database(&run.join("runtimed.db"))?,
        };
        for database in [&store.durable, &store.volatile] {
            write(database, |transaction| {
                transaction.open_table(CONTAINERS)?;
                transaction.open_table(RUNS)?;
                transaction.open_table(IMAGES)?;
                transaction.open_table(REFERENCES)?;
                transaction.open_table(MOVES)?;
                Ok(())
            })?;
        }
        Ok(store)
    }

    /// Writes a container.
    pub(crate) fn put_container(&self, record: &Record) -> Result<()> {
        let database = if record.host.auto_remove {
            &self.volatile
        } else {
            &self.durable
        };
        put(database, CONTAINERS, &record.id, record)
    }

    /// Removes a container and its run.
    pub(crate) fn remove_container(&self, record: &Record) -> Result<()> {
        let database = if record.host.auto_remove {
            &self.volatile
        } else {
            &self.durable
        };
        write(database, |transaction| {
            transaction
                .open_table(CONTAINERS)?
                .remove(record.id.as_str())?;
            Ok(())
        })
    }

    /// All containers of both stores.
    pub(crate) fn containers(&self) -> Result<Vec<Record>> {
        let mut records = list(&self.durable, CONTAINERS)?;
        records.extend(list(&self.volatile, CONTAINERS)?);
        Ok(records)
    }

    /// Writes a run.
    pub(crate) fn put_run(&self, run: &Run) -> Result<()> {
        put(&self.volatile, RUNS, &run.container_id, run)
    }

    /// Removes a run.
    pub(crate) fn remove_run(&self, container_id: &str) -> Result<()> {
        write(&self.volatile, |transaction| {
            transaction.open_table(RUNS)?.remove(container_id)?;
            Ok(())
        })
    }

    /// All runs.
    pub(crate) fn runs(&self) -> Result<Vec<Run>> {
        let runs: Vec<Run> = list(&self.volatile, RUNS)?;
        Ok(runs.into_iter().map(Run::upgraded).collect())
    }

    /// Writes the intent to move a port.
    pub(crate) fn put_move(&self, intent: &PortMove) -> Result<()> {
        put(&self.durable, MOVES, &intent.host.to_string(), intent)
    }

    /// Removes the intent to move a port.
    pub(crate) fn remove_move(&self, host: Port) -> Result<()> {
        write(&self.durable, |transaction| {
            let mut table = transaction.open_table(MOVES)?;
            table.remove(host.to_string().as_str())?;
            Ok(())
        })
    }

    /// All moves of ports that nobody finished.
    pub(crate) fn moves(&self) -> Result<Vec<PortMove>> {
        list(&self.durable, MOVES)
    }

    /// Writes images and moves references to them, all in one step.
    pub(crate) fn put_images(
        &self,
        images: &[ImageRecord],
        references: &[(String, String)],
    ) -> Result<()> {
        let mut rows = Vec::with_capacity(images.len());
        for image in images {
            rows.push((image.id.as_str(), encode(&image.id, image)?));
        }
        write(&self.durable, |transaction| {
            let mut table = transaction.open_table(IMAGES)?;
            for (id, bytes) in &rows {
                table.insert(*id, bytes.as_slice())?;
            }
            let mut table = transaction.open_table(REFERENCES)?;
            for (reference, id) in references {
                table.insert(reference.as_str(), id.as_str())?;
            }
            Ok(())
        })
    }

    /// Removes references, and an image if `image_id` is given, all in one step.
    pub(crate) fn remove_image(&self, references: &[String], image_id: Option<&str>) -> Result<()> {
        write(&self.durable, |transaction| {
            let mut table = transaction.open_table(REFERENCES)?;
            for reference in references {
                table.remove(reference.as_str())?;
            }
            if let Some(id) = image_id {
                transaction.open_table(IMAGES)?.remove(id)?;
            }
            Ok(())
        })
    }

    /// All images.
    pub(crate) fn images(&self) -> Result<Vec<ImageRecord>> {
        list(&self.durable, IMAGES)
    }

    /// All references with the ids that they stand for.
    pub(crate) fn references(&self) -> Result<Vec<(String, String)>> {
        let read = || -> std::result::Result<_, redb::Error> {
            let transaction = self.durable.begin_read()?;
            let table = transaction.open_table(REFERENCES)?;
            let mut references = Vec::new();
            for row in table.iter()? {
                let (reference, id) = row?;
                references.push((reference.value().to_owned(), id.value().to_owned()));
            }
            Ok(references)
        };
        read().map_err(|source| StoreError::Access {
            action: "read",
            source: Box::new(source),
        })
    }
}

fn open_database(path: &Path) -> Result<Database> {
    Database::create(path).map_err(|source| StoreError::Open {
        path: path.to_owned(),
        source: Box::new(source.into()),
    })
}

/// Runs `change` in one transaction and commits it.
fn write(
    database: &Database,
    change: impl FnOnce(&redb::WriteTransaction) -> std::result::Result<(), redb::Error>,
) -> Result<()> {
    let run = || {
        let transaction = database.begin_write()?;
        change(&transaction)?;
        transaction.commit()?;
        Ok(())
    };
    run().map_err(|source: redb::Error| StoreError::Access {
        action: "write",
        source: Box::new(source),
    })
}

fn put(
    database: &Database,
    table: TableDefinition<'_, &'static str, &'static [u8]>,
    key: &str,
    value: &impl Serialize,
) -> Result<()> {
    let bytes = encode(key, value)?;
    write(database, |transaction| {
        transaction
            .open_table(table)?
            .insert(key, bytes.as_slice())?;
        Ok(())
    })
}

fn list<T: DeserializeOwned>(
    database: &Database,
    table: TableDefinition<'_, &'static str, &'static [u8]>,
) -> Result<Vec<T>> {
    let read = || -> std::result::Result<_, redb::Error> {
        let transaction = database.begin_read()?;
        let table = transaction.open_table(table)?;
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(rows)
    };
    let rows = read().map_err(|source| StoreError::Access {
        action: "read",
        source: Box::new(source),
    })?;
    rows.into_iter()
        .map(|(key, bytes)| {
            serde_json::from_slice(&bytes).map_err(|source| StoreError::Decode { key, source })
        })
        .collect()
}

fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|source| StoreError::Encode {
        key: key.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, auto_remove: bool) -> Record {
        let text = format!(
            r#"{{"version":1,"id":"{id}","name":"n","generated_name":false,"image":"i:latest",
            "image_id":"sha256:0","lower_dirs":[],"created_at_ns":1,"config":{{"entrypoint":[],
            "command":[],"env":[],"private_env":[],"working_dir":"","user":"","hostname":"",
            "domainname":"","tty":false,"open_stdin":false,"labels":{{}},"exposed":["80/tcp"],
            "stop_signal":"","stop_timeout_ms":null}},"host":{}}}"#,
            serde_json::to_string(&crate::container::record::HostSettings {
                auto_remove,
                ..Default::default()
            })
            .unwrap()
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_container_that_removes_itself_does_not_outlive_a_reboot() {
        let root = tempfile::tempdir().unwrap();
        let run = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), run.path()).unwrap();
        store.put_container(&record("a", false)).unwrap();
        store.put_container(&record("b", true)).unwrap();
        assert_eq!(store.containers().unwrap().len(), 2);
        drop(store);
        let fresh = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), fresh.path()).unwrap();
        let left: Vec<String> = store
            .containers()
            .unwrap()
            .into_iter()
            .map(|r| r.id)
            .collect();
        assert_eq!(left, ["a"]);
    }

    #[test]
    fn a_damaged_record_is_named() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), tempfile::tempdir().unwrap().path()).unwrap();
        put(&store.durable, CONTAINERS, "broken", &7).unwrap();
        let error = store.containers().unwrap_err();
        assert!(error.to_string().contains("`broken`"), "{error}");
    }
}
