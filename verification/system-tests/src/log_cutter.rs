//! Damages the log of one partition while its broker is down: cuts off its tail, as a power loss or an unclean election
//! does, or flips one bit, as a failing disk does.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// The size of the fields before the records of a batch.
const HEADER: usize = 61;

/// The files of one partition. The broker must be down while they are read or changed.
pub(crate) struct PartitionFiles {
    /// The broker's directory of all partitions.
    all: PathBuf,
    directory: PathBuf,
}

/// A batch of records, or a transaction marker, in the log of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) first_offset: i64,
    pub(crate) last_offset: i64,
    /// True for the marker of a committed or aborted transaction.
    pub(crate) is_marker: bool,
    segment: PathBuf,
    /// The position in the file of the segment.
    begin: u64,
    /// The position after the batch.
    end: u64,
}

impl PartitionFiles {
    /// Returns the files of a partition in a broker's directory of all partitions.
    pub(crate) fn new(all: &Path, topic: &str, partition: i32) -> Self {
        Self { all: all.to_owned(), directory: all.join(format!("{topic}-{partition}")) }
    }

    /// Returns all batches, in order.
    pub(crate) fn batches(&self) -> anyhow::Result<Vec<Batch>> {
        let mut batches = Vec::new();
        for segment in self.segments()? {
            read_batches(&segment, &mut batches).with_context(|| format!("cannot read {}", segment.display()))?;
        }
        Ok(batches)
    }

    /// Removes the batch that holds an offset, and everything after it. After the next start, the partition ends with
    /// the batch before.
    pub(crate) fn cut_at(&self, offset: i64) -> anyhow::Result<()> {
        let batch = self.batch_of(offset)?;
        File::options().write(true).open(&batch.segment)?.set_len(batch.begin)?;
        for later in self.segments()?.into_iter().filter(|segment| *segment > batch.segment) {
            fs::remove_file(later)?;
        }
        // The broker makes these files again from the log. Without the mark of a clean shutdown it trusts none of them.
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            if ending.is_some_and(|ending| ["index", "timeindex", "txnindex", "snapshot"].contains(&ending)) {
                fs::remove_file(path)?;
            }
        }
        let mark = self.all.join(".kafka_cleanshutdown");
        if mark.exists() {
            fs::remove_file(mark)?;
        }
        Ok(())
    }

    /// Flips a bit of the last record of the batch that holds an offset. The broker must have been shut down cleanly.
    /// Otherwise it verifies the log at its next start, and cuts it off at this batch.
    pub(crate) fn flip_bit(&self, offset: i64) -> anyhow::Result<()> {
        let batch = self.batch_of(offset)?;
        let mut file = File::options().read(true).write(true).open(&batch.segment)?;
        let mut byte = [0];
        file.seek(SeekFrom::Start(batch.end - 1))?;
        file.read_exact(&mut byte)?;
        file.seek(SeekFrom::Start(batch.end - 1))?;
        file.write_all(&[byte[0] ^ 1])?;
        Ok(file.sync_all()?)
    }

    fn batch_of(&self, offset: i64) -> anyhow::Result<Batch> {
        let mut batches = self.batches()?.into_iter();
        let found = batches.find(|batch| (batch.first_offset..=batch.last_offset).contains(&offset));
        found.with_context(|| format!("{} has no offset {offset}", self.directory.display()))
    }

    /// Returns the files of the log, in order. Each is named by its first offset, in twenty digits.
    fn segments(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.directory).with_context(|| format!("no {}", self.directory.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "log") {
                segments.push(path);
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }
}

/// Reads the batches of one segment. See "Record Batch" in Kafka's documentation of its message format.
fn read_batches(segment: &Path, batches: &mut Vec<Batch>) -> anyhow::Result<()> {
    let bytes = fs::read(segment)?;
    let mut begin = 0;
    while let Some(header) = bytes.get(begin..begin + HEADER) {
        let first_offset = i64::from_be_bytes(header[0..8].try_into()?);
        let length = usize::try_from(i32::from_be_bytes(header[8..12].try_into()?))?;
        if length == 0 {
            break; // the broker may have allocated more than it has written
        }
        if header[16] != 2 {
            bail!("the batch at offset {first_offset} has the format {}", header[16]);
        }
        let attributes = i16::from_be_bytes(header[21..23].try_into()?);
        let last_offset = first_offset + i64::from(i32::from_be_bytes(header[23..27].try_into()?));
        let end = begin + 12 + length;
        batches.push(Batch {
            first_offset,
            last_offset,
            is_marker: attributes & 0x20 != 0,
            segment: segment.to_owned(),
            begin: begin as u64,
            end: end as u64,
        });
        begin = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a batch whose records are one byte.
    fn batch(first_offset: i64, records: i32, attributes: i16) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + 1];
        bytes[0..8].copy_from_slice(&first_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&(HEADER as i32 + 1 - 12).to_be_bytes());
        bytes[16] = 2;
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
        bytes
    }

    fn offsets(files: &PartitionFiles) -> Vec<(i64, i64, bool)> {
        let batches = files.batches().expect("readable");
        batches.iter().map(|batch| (batch.first_offset, batch.last_offset, batch.is_marker)).collect()
    }

    #[test]
    fn a_log_is_cut_at_the_batch_that_holds_the_offset() {
        let all = tempfile::tempdir().expect("a directory");
        let directory = all.path().join("events-3");
        fs::create_dir(&directory).expect("a directory");
        let first = [batch(0, 5, 0x10), batch(5, 1, 0x30), batch(6, 3, 0x10)].concat();
        fs::write(directory.join("00000000000000000000.log"), first).expect("written");
        fs::write(directory.join("00000000000000000009.log"), batch(9, 1, 0x30)).expect("written");
        for removed in ["00000000000000000000.index", "00000000000000000009.snapshot", "../.kafka_cleanshutdown"] {
            fs::write(directory.join(removed), "").expect("written");
        }
        let files = PartitionFiles::new(all.path(), "events", 3);
        assert_eq!(offsets(&files), [(0, 4, false), (5, 5, true), (6, 8, false), (9, 9, true)]);

        files.flip_bit(7).expect("flipped");
        files.cut_at(7).expect("cut");

        assert_eq!(offsets(&files), [(0, 4, false), (5, 5, true)]);
        assert_eq!(fs::read_dir(&directory).expect("readable").count(), 1);
        assert!(!all.path().join(".kafka_cleanshutdown").exists());
        assert!(files.cut_at(6).is_err());
    }
}
