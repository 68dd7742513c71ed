//! A batch's rows as staged files.
//!
//! Encoding and storing overlap: each open file has a task that hands encoded chunks to the store, so that a slow
//! NameNode does not stop the encoder. All chunks on the way together are bounded, and so is all that the encoders
//! hold.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    StagedFile,
    chunks::CHUNK_BYTES,
    encode::{Encoder, Format},
    layout::file_name,
    partition::{Part, Partitioning},
};
use crate::{
    catalog::FileTable,
    error::{Error, Result},
    store::{Staged, Store},
};

/// The file sink of one query.
#[derive(Debug, Clone)]
pub struct FileSink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    format: Format,
    partitioning: Partitioning,
    file_rows_max: u64,
}

/// Writes the files of one batch. Rows stream through: at most a row group (Parquet) or a few blocks (text) per open
/// file are in memory, and at most `OPEN_FILES_MAX` files are open.
#[derive(Debug)]
pub struct FileSinkWriter {
    shared: Arc<Shared>,
    owner: String,
    /// Most recently used last.
    open: Vec<OpenFile>,
    closing: Vec<ClosingFile>,
    done: Vec<StagedFile>,
    /// Room for chunks on their way to the store, in KiB.
    room: Arc<Semaphore>,
}

/// Partition directories written at the same time by one batch; beyond it the least recently used file is finished.
/// The HDFS client may hold 13 MiB of each while the DataNode is slow.
pub const OPEN_FILES_MAX: usize = 16;
/// Files that are finished by the store while others are written already.
pub const CLOSING_FILES_MAX: usize = 8;
/// What the encoders of all open files may hold; beyond it the largest one is flushed.
pub const OPEN_BYTES_MAX: usize = 32 << 20;
/// Encoded bytes of all files that wait for the store.
pub const WAITING_BYTES_MAX: usize = 8 << 20;
/// Rows that are encoded between two looks at these limits.
pub const ENCODE_ROWS: usize = 8192;

/// Chunks of one file that wait; their bytes are bounded by `WAITING_BYTES_MAX` already.
const WAITING_CHUNKS_MAX: usize = 16;
const KIB: usize = 1 << 10;

#[derive(Debug)]
struct OpenFile {
    directory: String,
    /// Counts the files of this directory that were full.
    roll: u32,
    rows: u64,
    encoder: Encoder,
    channel: Channel,
}

#[derive(Debug)]
struct ClosingFile {
    rows: u64,
    channel: Channel,
}

/// The way to the task that stores one file. Dropped, it ends the task.
#[derive(Debug)]
struct Channel {
    chunks: mpsc::Sender<Message>,
    task: JoinSet<Result<Option<Staged>>>,
    /// Shared by all files of the batch.
    room: Arc<Semaphore>,
}

enum Message {
    Chunk(Bytes, OwnedSemaphorePermit),
    /// Without it, a channel that ends means that the file was given up: its task deletes what there is of it.
    Finish,
}

impl FileSink {
    /// `schema` is that of the rows; checks that the format can hold it and that the `partitionBy` columns exist.
    ///
    /// # Errors
    /// `Invalid`: names the column, and suggests the nearest.
    pub fn new(store: Store, table: &FileTable, schema: SchemaRef) -> Result<Self> {
        let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid(format!("the rows have two columns named '{}'", twice[0]))
                .help("give one of them another name with AS"));
        }
        let partitioning = Partitioning::new(&schema, &table.partition_by)?;
        let format = Format::new(&table.format, table.compression, &partitioning.file_schema(&schema)?)?;
        let file_rows_max = table.max_records_per_file.filter(|rows| *rows > 0).unwrap_or(u64::MAX);
        Ok(Self { shared: Arc::new(Shared { store, format, partitioning, file_rows_max }) })
    }

    /// Deletes the files of a batch that was finished and shall not be published after all.
    ///
    /// # Errors
    /// The store's.
    pub async fn discard(&self, files: &[StagedFile]) -> Result<()> {
        discard(&self.shared.store, files).await
    }

    /// Starts a batch. `owner` marks its temporaries (`Store::stage`).
    pub fn begin(&self, owner: &str) -> FileSinkWriter {
        FileSinkWriter {
            shared: self.shared.clone(),
            owner: owner.to_owned(),
            open: Vec::new(),
            closing: Vec::new(),
            done: Vec::new(),
            room: Arc::new(Semaphore::new(WAITING_BYTES_MAX / KIB)),
        }
    }
}

/// Deletes staged files of a batch that was given up.
async fn discard(store: &Store, files: &[StagedFile]) -> Result<()> {
    for file in files {
        store.discard(&file.staged).await?;
    }
    Ok(())
}

impl FileSinkWriter {
    /// Writes rows.
    ///
    /// # Errors
    /// The store's.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        for Part { directory, rows } in self.shared.partitioning.split(rows)? {
            self.write_part(&directory, &rows).await?;
        }
        Ok(())
    }

    /// Closes every file. No rows, no files.
    ///
    /// # Errors
    /// The store's.
    pub async fn finish(mut self) -> Result<Vec<StagedFile>> {
        // All are told first, so that the store ends them side by side.
        while !self.open.is_empty() {
            self.close(0).await?;
        }
        while !self.closing.is_empty() {
            self.await_oldest().await?;
        }
        Ok(self.done)
    }

    /// Gives the batch up, and deletes what was staged of it.
    ///
    /// # Errors
    /// The store's. What is left then, the sweep after the next start deletes.
    pub async fn abandon(mut self) -> Result<()> {
        for file in self.open.drain(..) {
            file.channel.give_up().await?;
        }
        while !self.closing.is_empty() {
            self.await_oldest().await?;
        }
        discard(&self.shared.store, &self.done).await
    }

    async fn write_part(&mut self, directory: &str, rows: &RecordBatch) -> Result<()> {
        let mut start = 0;
        while start < rows.num_rows() {
            self.make_current(directory).await?;
            let Some(file) = self.open.last_mut() else { return Err(Error::internal("no file is open")) };
            let room = usize::try_from(self.shared.file_rows_max - file.rows).unwrap_or(usize::MAX);
            let count = (rows.num_rows() - start).min(ENCODE_ROWS).min(room);
            file.encoder.write(&rows.slice(start, count))?;
            file.rows += u64::try_from(count).unwrap_or_default();
            start += count;
            if file.encoder.done_bytes() >= CHUNK_BYTES {
                file.send().await?;
            }
            self.keep_limits().await?;
        }
        Ok(())
    }

    /// Makes the directory's file the last of `open`: the one that is there, or a new one.
    async fn make_current(&mut self, directory: &str) -> Result<()> {
        let mut roll = 0;
        // A statement of its own: an open file is not `Sync`, so no borrow of it may live across an await.
        let found = self.open.iter().rposition(|file| file.directory == directory);
        if let Some(index) = found {
            if self.open[index].rows < self.shared.file_rows_max {
                let file = self.open.remove(index);
                self.open.push(file);
                return Ok(());
            }
            roll = self.open[index].roll + 1;
            self.close(index).await?;
        } else if self.open.len() >= OPEN_FILES_MAX {
            self.close(0).await?;
        }
        let name = file_name(!self.shared.partitioning.is_none(), roll, self.shared.format.extension());
        let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
        let (chunks, waiting) = mpsc::channel(WAITING_CHUNKS_MAX);
        let mut task = JoinSet::new();
        task.spawn(store_file(self.shared.store.clone(), path, self.owner.clone(), waiting));
        let channel = Channel { chunks, task, room: self.room.clone() };
        let encoder = self.shared.format.open()?;
        self.open.push(OpenFile { directory: directory.to_owned(), roll, rows: 0, encoder, channel });
        Ok(())
    }

    /// Flushes the file that holds most, until all together hold little enough.
    async fn keep_limits(&mut self) -> Result<()> {
        while self.open.iter().map(|file| file.encoder.memory_bytes()).sum::<usize>() > OPEN_BYTES_MAX {
            let sizes = self.open.iter().map(|file| file.encoder.memory_bytes());
            let Some((largest, size)) = sizes.enumerate().max_by_key(|(_, size)| *size) else { break };
            let file = &mut self.open[largest];
            file.encoder.flush()?;
            file.send().await?;
            // What is left is not rows but the encoders themselves.
            if file.encoder.memory_bytes() >= size {
                break;
            }
        }
        Ok(())
    }

    /// Ends a file; its task goes on while the next one is written.
    async fn close(&mut self, index: usize) -> Result<()> {
        let OpenFile { rows, encoder, mut channel, .. } = self.open.remove(index);
        channel.send(encoder.finish()?).await?;
        channel.tell(Message::Finish).await?;
        self.closing.push(ClosingFile { rows, channel });
        while self.closing.len() > CLOSING_FILES_MAX {
            self.await_oldest().await?;
        }
        Ok(())
    }

    async fn await_oldest(&mut self) -> Result<()> {
        let mut file = self.closing.remove(0);
        let staged = file.channel.join().await?;
        self.done.push(StagedFile { staged, rows: file.rows });
        Ok(())
    }
}

impl OpenFile {
    /// Hands on what is encoded.
    async fn send(&mut self) -> Result<()> {
        self.channel.send(self.encoder.take()).await
    }
}

impl Channel {
    async fn send(&mut self, encoded: Vec<Bytes>) -> Result<()> {
        for mut bytes in encoded {
            while !bytes.is_empty() {
                let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
                let size = u32::try_from(chunk.len().div_ceil(KIB)).unwrap_or(u32::MAX);
                let room = self.room.clone().acquire_many_owned(size).await;
                let room = room.map_err(|closed| Error::internal(closed.to_string()))?;
                self.tell(Message::Chunk(chunk, room)).await?;
            }
        }
        Ok(())
    }

    /// A task that is gone has ended with an error, which is the one to report.
    async fn tell(&mut self, message: Message) -> Result<()> {
        if self.chunks.send(message).await.is_ok() {
            return Ok(());
        }
        match self.join().await {
            Err(error) => Err(error),
            Ok(staged) => Err(Error::internal(format!("{} was finished early", staged.path))),
        }
    }

    async fn join(&mut self) -> Result<Staged> {
        match self.task.join_next().await {
            Some(Ok(result)) => result?.ok_or_else(|| Error::internal("a file was given up and finished")),
            Some(Err(error)) => Err(Error::internal(format!("a writing task ended: {error}"))),
            None => Err(Error::internal("a writing task was asked twice")),
        }
    }

    /// Ends the task without a file.
    async fn give_up(self) -> Result<()> {
        let Self { chunks, mut task, .. } = self;
        drop(chunks);
        match task.join_next().await {
            Some(Ok(result)) => result.map(drop),
            Some(Err(error)) => Err(Error::internal(format!("a writing task ended: {error}"))),
            None => Err(Error::internal("a writing task was asked twice")),
        }
    }
}

/// Brings one file's chunks to the store; `None` if the file was given up.
async fn store_file(
    store: Store,
    path: String,
    owner: String,
    mut chunks: mpsc::Receiver<Message>,
) -> Result<Option<Staged>> {
    let mut writer = store.stage(&path, &owner).await?;
    while let Some(message) = chunks.recv().await {
        match message {
            Message::Chunk(bytes, room) => {
                writer.write(bytes).await?;
                drop(room);
            }
            Message::Finish => return writer.finish().await.map(Some),
        }
    }
    writer.abandon().await?;
    Ok(None)
}
