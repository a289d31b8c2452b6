//! The grid: for each row (what applies to a class of endpoints in one direction) and each column
//! (a class of peers), the tree that decides.
//!
//! Rows are cut into pages of [`PAGE`] columns, and equal pages exist once: most peers of most
//! endpoints share one fate, so most of a row is one page. A lookup is two loads.

use ahash::AHashMap;

use super::trees::Ref;

/// Columns of a page.
pub(crate) const PAGE: usize = 64;

/// The number of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct RowId(pub(crate) u32);

/// What lookups read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grid {
    /// Pages of a row.
    pub(crate) stride: usize,
    /// Page numbers, row after row.
    pub(crate) rows: Vec<u32>,
    /// Trees, page after page.
    pub(crate) pages: Vec<u32>,
}

impl Grid {
    /// The place of a column's page number in `rows`.
    pub(crate) fn page_of(&self, row: RowId, column: u32) -> usize {
        row.0 as usize * self.stride + column as usize / PAGE
    }

    /// Bytes on the heap.
    pub(crate) fn memory_usage(&self) -> usize {
        size_of_val(&self.rows[..]) + size_of_val(&self.pages[..])
    }
}

/// A grid that grows and changes.
#[derive(Debug, Default)]
pub(crate) struct GridBuilder {
    pub(crate) grid: Grid,
    pages: AHashMap<[u32; PAGE], u32>,
}

impl GridBuilder {
    /// Makes room for this many columns; new columns of a row have the tree of its `defaults`.
    pub(crate) fn reserve_columns(&mut self, columns: u32, defaults: impl Fn(RowId) -> Ref) {
        let needed = (columns as usize).div_ceil(PAGE);
        let old = self.grid.stride;
        if needed <= old {
            return;
        }
        // Some spare pages, so that a cluster that grows does not copy all rows each time.
        let stride = if old == 0 { needed } else { needed + needed / 8 + 1 };
        let count = self.grid.rows.len().checked_div(old).unwrap_or(0);
        let mut rows = Vec::with_capacity(count * stride);
        for row in 0..count {
            rows.extend_from_slice(&self.grid.rows[row * old..(row + 1) * old]);
            let page = self.page([defaults(RowId(row as u32)).0; PAGE]);
            rows.resize((row + 1) * stride, page);
        }
        self.grid.stride = stride;
        self.grid.rows = rows;
    }

    /// Writes a row: `default` everywhere but at the columns listed, ascending.
    pub(crate) fn write_row(&mut self, row: RowId, default: Ref, others: &[(u32, Ref)]) {
        let stride = self.grid.stride;
        let first = row.0 as usize * stride;
        if first + stride > self.grid.rows.len() {
            self.grid.rows.resize(first + stride, 0);
        }
        let uniform = self.page([default.0; PAGE]);
        self.grid.rows[first..first + stride].fill(uniform);
        for same_page in others.chunk_by(|a, b| a.0 as usize / PAGE == b.0 as usize / PAGE) {
            let mut content = [default.0; PAGE];
            for &(column, tree) in same_page {
                content[column as usize % PAGE] = tree.0;
            }
            let page = self.page(content);
            self.grid.rows[first + same_page[0].0 as usize / PAGE] = page;
        }
    }

    /// Writes one column of a row.
    pub(crate) fn write(&mut self, row: RowId, column: u32, tree: Ref) {
        let at = self.grid.page_of(row, column);
        let old = self.grid.rows[at] as usize * PAGE;
        let mut content = [0; PAGE];
        content.copy_from_slice(&self.grid.pages[old..old + PAGE]);
        if content[column as usize % PAGE] != tree.0 {
            content[column as usize % PAGE] = tree.0;
            self.grid.rows[at] = self.page(content);
        }
    }

    fn page(&mut self, content: [u32; PAGE]) -> u32 {
        let pages = &mut self.grid.pages;
        *self.pages.entry(content).or_insert_with(|| {
            pages.extend_from_slice(&content);
            u32::try_from(pages.len() / PAGE - 1).expect("fewer than 2^32 pages")
        })
    }
}
