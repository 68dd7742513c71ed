//! The columns of one record, or of one nested struct, in step with each other.

use arrow::{array::ArrayRef, datatypes::FieldRef};

use super::{
    column::Column,
    flaw::{Flaw, Step},
};
use crate::error::Result;

/// Columns of equal length, except while a record is being read.
#[derive(Debug)]
pub(super) struct Row {
    pub columns: Vec<Column>,
    /// Whole rows.
    pub len: usize,
    /// Names with their columns, in order of the names.
    by_name: Vec<(String, usize)>,
    /// How many of the columns the record has filled so far.
    filled: usize,
    /// What the previous record looked like: the bytes before its n-th value, and that value's column.
    expected: Vec<(Box<[u8]>, Option<usize>)>,
}

/// How many fields of a record are foreseen, and how long the bytes before a value may be: beyond it is looked up.
const EXPECTED_FIELDS_MAX: usize = 256;
const EXPECTED_BYTES_MAX: usize = 256;

impl Row {
    /// # Errors
    /// `Unsupported`: see `Column::new`.
    pub fn new(fields: impl Iterator<Item = FieldRef>) -> Result<Self> {
        let columns = fields.map(Column::new).collect::<Result<Vec<_>>>()?;
        let mut by_name: Vec<_> =
            columns.iter().enumerate().map(|(index, column)| (column.field.name().clone(), index)).collect();
        by_name.sort();
        Ok(Self { columns, len: 0, by_name, filled: 0, expected: Vec::new() })
    }

    /// The column of that name (case-sensitive).
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        let found = self.by_name.binary_search_by(|(candidate, _)| candidate.as_bytes().cmp(name)).ok()?;
        Some(self.by_name[found].1)
    }

    /// If `rest` goes on as the previous record did before its value `index`: how many bytes that is, and the column.
    #[inline]
    pub fn foresee(&self, index: usize, rest: &[u8]) -> Option<(usize, Option<usize>)> {
        let (before, column) = self.expected.get(index)?;
        rest.starts_with(before).then_some((before.len(), *column))
    }

    /// Remembers what stood before value `index`.
    #[cold]
    pub fn remember(&mut self, index: usize, before: &[u8], column: Option<usize>) {
        if before.len() > EXPECTED_BYTES_MAX || index >= EXPECTED_FIELDS_MAX {
            return;
        }
        if index < self.expected.len() {
            self.expected[index] = (before.into(), column);
        } else if index == self.expected.len() {
            self.expected.push((before.into(), column));
        }
    }

    /// Makes column `index` ready for its value in this row. A value that a duplicate key put there is dropped: the
    /// last one wins, as in Spark.
    #[inline]
    pub fn open(&mut self, index: usize) -> &mut Column {
        let column = &mut self.columns[index];
        if column.len() > self.len {
            column.truncate(self.len);
        } else {
            self.filled += 1;
        }
        column
    }

    /// Ends the row: what no field filled is null.
    ///
    /// # Errors
    /// A field flaw naming a NOT NULL column.
    #[inline]
    pub fn close(&mut self) -> Step<()> {
        if self.filled < self.columns.len() {
            for column in self.columns.iter_mut().filter(|column| column.len() == self.len) {
                if let Err(flaw) = column.push_null() {
                    return Err(flaw.named(column.field.name()));
                }
            }
        }
        self.filled = 0;
        self.len += 1;
        Ok(())
    }

    /// Drops what the record has put into the columns.
    #[cold]
    pub fn roll_back(&mut self) {
        self.truncate(self.len);
    }

    pub fn truncate(&mut self, rows: usize) {
        self.filled = 0;
        self.len = rows;
        for column in &mut self.columns {
            column.truncate(rows);
        }
    }

    /// A row of nulls, for a null struct.
    pub fn push_placeholders(&mut self) {
        self.truncate(self.len);
        self.columns.iter_mut().for_each(Column::push_placeholder);
        self.len += 1;
    }

    /// Replaces the row that is being read by `null` in every column.
    pub fn push_nulls(&mut self) -> Step<()> {
        self.roll_back();
        self.close()
    }

    pub fn buffered_bytes(&self) -> usize {
        self.columns.iter().map(Column::buffered_bytes).sum()
    }

    /// The number of rows, and their arrays; the columns are empty afterwards.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn finish(&mut self) -> Result<(usize, Vec<ArrayRef>)> {
        let rows = std::mem::take(&mut self.len);
        self.filled = 0;
        Ok((rows, self.columns.iter_mut().map(Column::finish).collect::<Result<_>>()?))
    }
}

/// In mode PERMISSIVE a record can give a row and still have a flaw: the first field that became null because of one.
pub(super) type FirstFlaw = Option<Box<Flaw>>;
