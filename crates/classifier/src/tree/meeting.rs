//! Which rules of a tree can be found where another rule matches.

use super::entries_of;
use super::forest::{Forest, Kind, NO_SLOT, Node, RESIDUAL};
use super::region::Region;
use crate::lanes::Entry;
use crate::rule::Rule;

impl<const B: usize> Forest<B> {
    /// Adds the ids of rules in leaves whose region meets `rule`.
    pub(super) fn meeting(&self, rule: &Rule, ids: &mut Vec<u32>) {
        for entry in entries_of::<B>(rule) {
            for root in &self.roots {
                self.visit(root.node, Region::ALL, &entry, ids);
            }
            if let Some(crossed) = &self.crossed {
                ids.extend(crossed.meeting(&entry.bounds));
            }
        }
    }

    fn visit(&self, node: Node, region: Region<B>, entry: &Entry<B>, ids: &mut Vec<u32>) {
        match node.kind() {
            Kind::Leaf { first, groups } => {
                let rows = &self.ids[first as usize..(first + groups) as usize];
                ids.extend(rows.iter().flatten().filter(|&&id| id != NO_SLOT).map(|&id| {
                    if id & RESIDUAL == 0 {
                        id
                    } else {
                        self.residuals[(id ^ RESIDUAL) as usize].id
                    }
                }));
            }
            Kind::Table { first, offset, mask } => {
                self.visit_table((first, offset), (mask, mask.count_ones()), region, entry, 0, ids);
            }
        }
    }

    /// Takes the bits that are left of a table one by one, the highest first, and drops what does
    /// not meet the entry.
    fn visit_table(
        &self,
        (first, offset): (u32, usize),
        (mask, left): (u64, u32),
        region: Region<B>,
        entry: &Entry<B>,
        index: usize,
        ids: &mut Vec<u32>,
    ) {
        if left == 0 {
            return self.visit(self.nodes[first as usize + index], region, entry, ids);
        }
        let bit = 63 - mask.leading_zeros() as usize;
        for one in [false, true] {
            let mut region = region;
            region.fix(offset + bit / 16, bit % 16, one);
            if region.lane_meets(offset + bit / 16, &entry.bounds) {
                let rest = (mask & !(1 << bit), left - 1);
                let index = index | usize::from(one) << (left - 1);
                self.visit_table((first, offset), rest, region, entry, index, ids);
            }
        }
    }
}
