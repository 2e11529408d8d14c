//! Trilinear weights: a row's value to the eight voxels whose centres surround its point.
//!
//! Along each axis the point lies between two centres, at the fraction `f` from the lower one, which gets `1 − f` and the upper one `f`; a
//! voxel's weight is the product. Voxels outside the box take nothing, and the others are scaled so that a row's weights add up to one. A
//! voxel whose weight is 0 is not touched. With layers by number there is nothing between layers: four voxels share.

use std::ops::Range;

use crate::model::Batch;

use super::{Grid, LayerBy, TileKey, Touched, accumulate::mark_cells};

/// Voxels that share a row, each with its weight.
type Shares = Vec<([i32; 3], f64)>;

impl Grid {
    pub(super) fn spread_block(
        &mut self,
        batch: &Batch,
        rows: Range<usize>,
        from: [&[f64]; 3],
        layers: Option<&[i32]>,
        touched: &mut Touched,
    ) {
        let mut shares = Shares::with_capacity(8);
        for row in rows.clone() {
            let at = row - rows.start;
            let point = self.config.settings().transform.apply(from.map(|axis| axis[at]));
            let home = self.config.index_of_build(point, layers.map(|layers| layers[at]));
            let with_value = self.columns.iter().any(|column| batch.signals[*column][row].is_finite());
            let Some(home) = home.filter(|_| with_value) else {
                self.count_skipped(batch, row, touched);
                continue;
            };
            self.shares(point, home, &mut shares);
            let slots: Option<Vec<usize>> = shares.iter().map(|(index, _)| self.slot_if_it_fits(TileKey::of(*index))).collect();
            match slots {
                Some(slots) => self.add_shares(batch, row, &shares, &slots, touched),
                None => touched.full += 1,
            }
        }
    }

    fn shares(&self, point: [f64; 3], home: [i32; 3], shares: &mut Shares) {
        let axes = self.config.axes();
        let by_number = self.config.settings().layer_by != LayerBy::Z;
        let pair = |axis: usize| {
            if axis == 2 && by_number {
                return [(home[2], 1.0), (home[2], 0.0)];
            }
            let from_center = axes[axis].fraction(point[axis]) - 0.5;
            let lower = from_center.floor();
            let upper_share = from_center - lower;
            [(lower as i32, 1.0 - upper_share), (lower as i32 + 1, upper_share)]
        };
        let [x, y, z] = [0, 1, 2].map(pair);
        shares.clear();
        for (k, of_z) in z {
            for (j, of_y) in y {
                for (i, of_x) in x {
                    let inside = [i, j, k].iter().zip(axes).all(|(index, axis)| axis.contains(*index));
                    if inside && of_x * of_y * of_z > 0.0 {
                        shares.push(([i, j, k], of_x * of_y * of_z));
                    }
                }
            }
        }
        let total: f64 = shares.iter().map(|(_, weight)| weight).sum();
        shares.iter_mut().for_each(|(_, weight)| *weight /= total);
    }

    fn add_shares(&mut self, batch: &Batch, row: usize, shares: &Shares, slots: &[usize], touched: &mut Touched) {
        let time = batch.time[row];
        touched.rows += 1;
        for ((index, weight), slot) in shares.iter().zip(slots) {
            let cell = TileKey::cell(*index);
            touched.voxels += mark_cells(self.touch(*slot), &[cell as u64]);
            for (lanes, column) in self.lanes.iter_mut().zip(&self.columns) {
                let value = batch.signals[*column][row] + 0.0;
                if value.is_finite() {
                    lanes.add_weighted(*slot, cell, *weight, time, value);
                }
            }
        }
        if let Some(slot) = slots.first() {
            let layer = self.links[*slot].layer as usize;
            self.layers[layer].observe(&[time]);
        }
    }
}
