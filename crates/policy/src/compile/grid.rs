//! The grid: for each row (what applies to a class of endpoints in one direction) and each column
//! (a class of peers), the tree that decides.
//!
//! A row has few distinct trees: its palette. The row is cut into pages of [`PAGE`] columns that hold
//! places in the palette, so pages are patterns of peers, and equal patterns exist once, whatever the
//! rules behind them. A lookup is three loads: page number (and palette), place, tree.

use std::sync::Arc;

use ahash::AHashMap;

use super::trees::{Full, Ref};

/// Columns of a page: 128 bytes.
pub(crate) const PAGE: usize = 64;

/// The number of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct RowId(pub(crate) u32);

impl RowId {
    /// The row of whom policies do not apply to: every tree of it is [`Ref::NO_SAY`]. So lookups
    /// need not ask whether there is a row.
    pub(crate) const NONE: Self = Self(0);
}

/// What lookups read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grid {
    /// Words of a row: where its palette begins, then its page numbers.
    pub(crate) stride: usize,
    /// Row after row.
    pub(crate) rows: Vec<u32>,
    /// Places in the palette, page after page.
    pub(crate) pages: Vec<u16>,
    /// Trees, palette after palette.
    pub(crate) palettes: Vec<u32>,
}

impl Grid {
    /// The place of a row's palette in `rows`.
    pub(crate) fn palette_of(&self, row: RowId) -> usize {
        row.0 as usize * self.stride
    }

    /// The place of a column's page number in `rows`.
    pub(crate) fn page_of(&self, row: RowId, column: u32) -> usize {
        row.0 as usize * self.stride + 1 + column as usize / PAGE
    }

    /// The tree of a row and column; `None` if it leads out of the grid.
    pub(crate) fn tree(&self, row: RowId, column: u32) -> Option<Ref> {
        let palette = *self.rows.get(self.palette_of(row))? as usize;
        let page = *self.rows.get(self.page_of(row, column))? as usize;
        let place = *self.pages.get(page * PAGE + column as usize % PAGE)?;
        self.palettes.get(palette + usize::from(place)).map(|&tree| Ref(tree))
    }

    /// Bytes on the heap.
    pub(crate) fn memory_usage(&self) -> usize {
        size_of_val(&self.rows[..]) + size_of_val(&self.pages[..]) + size_of_val(&self.palettes[..])
    }
}

/// A grid that grows and changes.
#[derive(Debug, Default)]
pub(crate) struct GridBuilder {
    /// Shared with the programs made of it; the first change after that copies it.
    pub(crate) grid: Arc<Grid>,
    pages: AHashMap<[u16; PAGE], u32>,
    /// Lengths of the palettes, by row.
    lengths: Vec<u32>,
}

/// The default tree of a row is the first of its palette.
const DEFAULT: u16 = 0;

impl GridBuilder {
    /// Makes room for this many columns; new columns of a row have its default tree.
    pub(crate) fn reserve_columns(&mut self, columns: u32) {
        let needed = (columns as usize).div_ceil(PAGE) + 1;
        let old = self.grid.stride;
        if needed <= old {
            return;
        }
        // Some spare pages, so that a cluster that grows does not copy all rows each time.
        let stride = if old == 0 { needed } else { needed + needed / 8 + 1 };
        let count = self.grid.rows.len().checked_div(old).unwrap_or(0);
        let uniform = self.page([DEFAULT; PAGE]);
        let mut rows = Vec::with_capacity(count.max(1) * stride);
        for row in 0..count {
            rows.extend_from_slice(&self.grid.rows[row * old..(row + 1) * old]);
            rows.resize((row + 1) * stride, uniform);
        }
        if count == 0 {
            Arc::make_mut(&mut self.grid).palettes.push(Ref::NO_SAY.0);
            self.lengths.push(1);
            rows.push(0);
            rows.resize(stride, uniform);
        }
        let grid = Arc::make_mut(&mut self.grid);
        grid.stride = stride;
        grid.rows = rows;
    }

    /// Writes a row: `default` everywhere but at the columns listed, ascending.
    pub(crate) fn write_row(
        &mut self,
        row: RowId,
        default: Ref,
        others: &[(u32, Ref)],
    ) -> Result<(), Full> {
        let uniform = self.page([DEFAULT; PAGE]);
        let grid = Arc::make_mut(&mut self.grid);
        let (stride, first) = (grid.stride, grid.palette_of(row));
        if first + stride > grid.rows.len() {
            grid.rows.resize(first + stride, 0);
            self.lengths.resize(row.0 as usize + 1, 0);
        }
        grid.rows[first + 1..first + stride].fill(uniform);
        let mut palette = vec![default.0];
        let mut places: AHashMap<Ref, u16> = [(default, DEFAULT)].into_iter().collect();
        for same_page in others.chunk_by(|a, b| a.0 as usize / PAGE == b.0 as usize / PAGE) {
            let mut content = [DEFAULT; PAGE];
            for &(column, tree) in same_page {
                let place = match places.get(&tree) {
                    Some(&place) => place,
                    None => {
                        let place = u16::try_from(palette.len()).map_err(|_| Full)?;
                        palette.push(tree.0);
                        places.insert(tree, place);
                        place
                    }
                };
                content[column as usize % PAGE] = place;
            }
            let page = self.page(content);
            let grid = Arc::make_mut(&mut self.grid);
            let at = grid.page_of(row, same_page[0].0);
            grid.rows[at] = page;
        }
        self.place_palette(row, &palette)
    }

    /// Writes one column of a row.
    pub(crate) fn write(&mut self, row: RowId, column: u32, tree: Ref) -> Result<(), Full> {
        if self.grid.tree(row, column) == Some(tree) {
            return Ok(());
        }
        let begin = self.grid.rows[self.grid.palette_of(row)] as usize;
        let palette = &self.grid.palettes[begin..][..self.lengths[row.0 as usize] as usize];
        let place = palette.iter().position(|&t| t == tree.0).unwrap_or(palette.len());
        if place == palette.len() {
            let longer = [palette, &[tree.0]].concat();
            self.place_palette(row, &longer)?;
        }
        let at = self.grid.page_of(row, column);
        let old = self.grid.rows[at] as usize * PAGE;
        let mut content = [0; PAGE];
        content.copy_from_slice(&self.grid.pages[old..old + PAGE]);
        content[column as usize % PAGE] = u16::try_from(place).map_err(|_| Full)?;
        let page = self.page(content);
        Arc::make_mut(&mut self.grid).rows[at] = page;
        Ok(())
    }

    /// Gives a row a palette, behind all others; where the row's old one stood is lost until the next
    /// compilation from nothing.
    fn place_palette(&mut self, row: RowId, palette: &[u32]) -> Result<(), Full> {
        let grid = Arc::make_mut(&mut self.grid);
        let begin = u32::try_from(grid.palettes.len()).map_err(|_| Full)?;
        grid.palettes.extend_from_slice(palette);
        let at = grid.palette_of(row);
        grid.rows[at] = begin;
        self.lengths[row.0 as usize] = palette.len() as u32;
        Ok(())
    }

    fn page(&mut self, content: [u16; PAGE]) -> u32 {
        let grid = &mut self.grid;
        *self.pages.entry(content).or_insert_with(|| {
            let pages = &mut Arc::make_mut(grid).pages;
            pages.extend_from_slice(&content);
            u32::try_from(pages.len() / PAGE - 1).expect("fewer than 2^32 pages")
        })
    }
}
