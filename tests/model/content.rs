//! The content of a reference file: pages in a map, all else zero.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Bytes in a page of the reference (has nothing to do with the sizes of the store).
pub const PAGE: u64 = 4096;

/// A file's bytes. Pages of zeros are never kept, so that equal bytes are equal values.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Content {
    size: u64,
    pages: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Content {
    /// Returns the length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the indexes of the pages that are not all zero.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().copied()
    }

    /// Reads, short at the end of the file.
    pub fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let end = offset.saturating_add(length).min(self.size);
        if offset >= end {
            return Vec::new();
        }
        let mut out = vec![0; (end - offset) as usize];
        for (&index, page) in self.pages.range(offset / PAGE..=(end - 1) / PAGE) {
            let start = index * PAGE;
            let from = start.max(offset);
            let to = (start + PAGE).min(end);
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        out
    }

    /// Writes, growing the file where needed.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let index = at / PAGE;
            let to = ((index + 1) * PAGE).min(end);
            let mut page = self.pages.get(&index).map_or_else(|| vec![0; PAGE as usize], |page| page.to_vec());
            page[(at - index * PAGE) as usize..(to - index * PAGE) as usize]
                .copy_from_slice(&data[(at - offset) as usize..(to - offset) as usize]);
            self.keep(index, page);
            at = to;
        }
        self.size = self.size.max(end);
    }

    /// Zeroes `[from, to)` as far as the file reaches.
    pub fn zero(&mut self, from: u64, to: u64) {
        let to = to.min(self.size);
        if from >= to {
            return;
        }
        let touched: Vec<u64> = self.pages.range(from / PAGE..=(to - 1) / PAGE).map(|(&index, _)| index).collect();
        for index in touched {
            let start = index * PAGE;
            let mut page = self.pages[&index].to_vec();
            page[(from.max(start) - start) as usize..(to.min(start + PAGE) - start) as usize].fill(0);
            self.keep(index, page);
        }
    }

    /// Cuts off, or extends with zeros.
    pub fn resize(&mut self, size: u64) {
        self.zero(size, self.size);
        self.size = size;
    }

    /// Copies bytes of another file over a range that is zero here.
    pub fn copy_from(&mut self, source: &Content, from: u64, to: u64, count: u64) {
        for index in source.pages() {
            let start = (index * PAGE).max(from);
            let end = (index * PAGE + PAGE).min(from + count);
            if start < end {
                self.write(to + (start - from), &source.read(start, end - start));
            }
        }
    }

    fn keep(&mut self, index: u64, page: Vec<u8>) {
        if page.iter().all(|&byte| byte == 0) {
            self.pages.remove(&index);
        } else {
            self.pages.insert(index, Arc::new(page));
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.size)?;
        for (index, page) in self.pages.iter().take(6) {
            let first = page.iter().position(|&byte| byte != 0).unwrap_or(0);
            let last = page.iter().rposition(|&byte| byte != 0).unwrap_or(0);
            let sum = page.iter().fold(0u32, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
            write!(
                f,
                " [{}..{}: {:#x}.. #{sum:x}]",
                index * PAGE + first as u64,
                index * PAGE + last as u64 + 1,
                page[first]
            )?;
        }
        if self.pages.len() > 6 {
            write!(f, " and {} pages", self.pages.len() - 6)?;
        }
        Ok(())
    }
}

#[test]
fn reference_content_reads_what_a_plain_vector_reads() {
    let mut plain = Vec::new();
    let mut content = Content::default();
    for (offset, length) in [(0usize, 10usize), (4090, 20), (9000, 1), (100, 5000), (20_000, 0)] {
        if length > 0 {
            plain.resize(plain.len().max(offset + length), 0);
            plain[offset..offset + length].fill(offset as u8 | 1);
        }
        content.write(offset as u64, &vec![offset as u8 | 1; length]);
    }
    content.resize(9001);
    content.zero(4000, 4200);
    plain[4000..4200].fill(0);
    assert_eq!(content.read(0, 1 << 40), plain);
    content.resize(5);
    content.resize(5000);
    plain.truncate(5);
    plain.resize(5000, 0);
    assert_eq!(content.read(0, 1 << 40), plain);
    assert_eq!(content.read(3, 4), plain[3..7]);
    assert_eq!(content.read(5000, 1), b"");
}
