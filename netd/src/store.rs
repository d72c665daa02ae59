//! Rows that outlive the process, in two files.
//!
//! `ROOT/net.db` keeps what a power cut must not take: leases. `RUN/netd.db` keeps what
//! makes sense only while the machine is up: endpoints, and what is being done to them.
//! A row is JSON with a version; records are their own types, apart from wire and domain.

pub(crate) mod record;

use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a row could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Another process has the file open.
    #[error("another linkspan-netd uses `{path}`")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The database failed.
    #[error("{act} `{path}`")]
    Database {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Box<redb::Error>,
    },
    /// A row does not have the form of its version.
    #[error("row `{key}` of table `{table}`")]
    Row {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// A table: text to JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table(pub(crate) &'static str);

impl Table {
    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.0)
    }
}

/// One change of a row.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    table: Table,
    key: String,
    value: Option<Vec<u8>>,
}

impl Change {
    /// Writes a row.
    pub(crate) fn put<T: Serialize>(table: Table, key: impl Into<String>, record: &T) -> Self {
        let value = serde_json::to_vec(record).expect("records have text keys and plain values");
        Self {
            table,
            key: key.into(),
            value: Some(value),
        }
    }

    /// Removes a row.
    pub(crate) fn remove(table: Table, key: impl Into<String>) -> Self {
        Self {
            table,
            key: key.into(),
            value: None,
        }
    }
}

/// A database file.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens or creates a file; it is locked while it is open.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(|source| match source {
            DatabaseError::DatabaseAlreadyOpen => StoreError::Busy {
                path: path.to_owned(),
            },
            other => StoreError::Database {
                act: "open",
                path: path.to_owned(),
                source: Box::new(other.into()),
            },
        })?;
        Ok(Self {
            database,
            path: path.to_owned(),
        })
    }

    /// Makes changes, all or none; they are on disk when this returns.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.write(changes)
            .map_err(|source| self.failed("write", source))
    }

    /// The rows of a table.
    pub(crate) fn load<T: DeserializeOwned>(
        &self,
        table: Table,
    ) -> Result<Vec<(String, T)>, StoreError> {
        self.read(table)
            .map_err(|source| self.failed("read", source))?
            .into_iter()
            .map(|(key, value)| match serde_json::from_slice(&value) {
                Ok(record) => Ok((key, record)),
                Err(source) => Err(StoreError::Row {
                    table: table.0,
                    key,
                    source,
                }),
            })
            .collect()
    }

    fn write(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        for change in changes {
            let mut table = transaction.open_table(change.table.definition())?;
            match &change.value {
                Some(value) => drop(table.insert(change.key.as_str(), value.as_slice())?),
                None => drop(table.remove(change.key.as_str())?),
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(table.definition()) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(other) => return Err(other.into()),
        };
        table
            .iter()?
            .map(|row| {
                let (key, value) = row?;
                Ok((key.value().to_owned(), value.value().to_vec()))
            })
            .collect()
    }

    fn failed(&self, act: &'static str, source: redb::Error) -> StoreError {
        StoreError::Database {
            act,
            path: self.path.clone(),
            source: Box::new(source),
        }
    }
}
