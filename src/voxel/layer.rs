//! Layers: when one is finished, what is known of it, what is missing.
//!
//! A layer is finished when somebody says so ([`Grid::finish_layer`]) or when the watermark has passed the first row of a higher one: no
//! earlier row follows, so the machine has moved on for good. Rows that come for a finished layer all the same are added and
//! counted. Finished layers are what leaves memory when it is full.

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

use super::{Expected, Grid, Stats};

/// What is known of a layer besides its voxels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the number of a layer is called so everywhere")]
pub(super) struct Layer {
    pub layer: i32,
    pub rows: u64,
    /// Event times, nanoseconds.
    pub first_time: i64,
    pub last_time: i64,
    pub is_finished: bool,
    /// How often its tiles went to the store; those in memory hold what came after.
    pub generations: u32,
    /// What its tiles take there.
    pub stored_bytes: u64,
    /// Its tiles are gone from the store.
    pub is_forgotten: bool,
    /// Rows that came after it was finished.
    pub rows_after: u64,
    /// By signal, as it left memory.
    pub figures: Vec<Figures>,
    /// By signal, expected and missing voxels against the layer below, as that one left memory.
    pub gaps: Vec<(Option<u64>, u64)>,
}

/// What stays of a layer and signal when its voxels leave memory.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    pub count: u64,
    pub all: Option<Stats>,
    pub filled: u64,
    pub expected: Option<u64>,
    pub missing: u64,
}

impl Figures {
    /// One more voxel.
    fn add(&mut self, stats: &Stats) {
        self.filled += 1;
        self.count += u64::from(stats.count);
        self.all = Some(self.all.map_or(*stats, |all| all.merged(stats)));
    }

    /// With what came later; its voxels are taken to be among those that were filled.
    fn with(self, later: Self) -> Self {
        Self {
            count: self.count + later.count,
            all: Stats::all(self.all.into_iter().chain(later.all)),
            filled: self.filled.max(later.filled),
            ..self
        }
    }
}

impl Layer {
    pub fn new(layer: i32) -> Self {
        Self {
            layer,
            rows: 0,
            first_time: i64::MAX,
            last_time: i64::MIN,
            is_finished: false,
            generations: 0,
            stored_bytes: 0,
            is_forgotten: false,
            rows_after: 0,
            figures: Vec::new(),
            gaps: Vec::new(),
        }
    }

    /// Rows were added.
    #[inline]
    pub fn observe(&mut self, times: &[i64]) {
        let rows = times.len() as u64;
        self.rows += rows;
        self.rows_after += if self.is_finished { rows } else { 0 };
        let (mut first, mut last) = (self.first_time, self.last_time);
        for time in times {
            first = first.min(*time);
            last = last.max(*time);
        }
        (self.first_time, self.last_time) = (first, last);
    }

    /// Adds what another grid knows of the same layer.
    pub fn join(&mut self, other: &Self) {
        self.rows += other.rows;
        self.rows_after += other.rows_after;
        self.first_time = self.first_time.min(other.first_time);
        self.last_time = self.last_time.max(other.last_time);
        self.is_finished &= other.is_finished;
    }
}

/// Where a layer stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerStatus {
    /// Voxel index along z.
    pub layer: i32,
    /// Rows added to it.
    pub rows: u64,
    /// Event time of its earliest row.
    pub first: Timestamp,
    /// Event time of its latest row.
    pub last: Timestamp,
    /// No more rows are expected.
    pub is_finished: bool,
    /// How often its tiles went to the store; 0 = they are all in memory.
    pub generations: u32,
    /// Its tiles are gone from the store, because there was no room for them.
    pub is_forgotten: bool,
    /// Rows that came after it was finished.
    pub rows_after: u64,
}

/// A layer and signal in figures; mean, extremes and variance are over rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerSummary {
    /// Voxel index along z.
    pub layer: i32,
    /// Lower face of the layer, mm.
    pub z_mm: f64,
    /// The signal's name.
    pub signal: std::sync::Arc<str>,
    /// Rows.
    pub count: u64,
    /// Mean over rows.
    pub mean: Option<f64>,
    /// Divided by n − 1.
    pub variance: Option<f64>,
    /// Smallest value.
    pub min: Option<f64>,
    /// Largest value.
    pub max: Option<f64>,
    /// Voxels with a value.
    pub filled: u64,
    /// Voxels that should have one; `None` in a grid without a size.
    pub expected: Option<u64>,
    /// Of the expected ones, those with a value, 0 to 1; `None` if none is expected.
    pub completeness: Option<f64>,
    /// Whether no more rows are expected.
    pub is_finished: bool,
}

/// The expected voxels of a layer that have no value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// All of them, counted; `None` in a grid without a size.
    pub expected: Option<u64>,
    /// How many are missing.
    pub missing: u64,
    /// The first of them as (i, j), by j, then i.
    pub voxels: Vec<[i32; 2]>,
}

impl Grid {
    /// All layers that have or had a voxel, from the lowest.
    pub fn layers(&self) -> Vec<LayerStatus> {
        self.layer_places.values().map(|place| self.status(&self.layers[*place as usize])).collect()
    }

    /// Where `layer` stands; `None` if it never had a voxel.
    pub fn layer(&self, layer: i32) -> Option<LayerStatus> {
        self.layer_places.get(&layer).map(|place| self.status(&self.layers[*place as usize]))
    }

    #[allow(clippy::unused_self)]
    fn status(&self, layer: &Layer) -> LayerStatus {
        LayerStatus {
            layer: layer.layer,
            rows: layer.rows,
            first: Timestamp(layer.first_time),
            last: Timestamp(layer.last_time),
            is_finished: layer.is_finished,
            generations: layer.generations,
            is_forgotten: layer.is_forgotten,
            rows_after: layer.rows_after,
        }
    }

    /// The highest layer that ever had a voxel.
    pub fn highest_layer(&self) -> Option<i32> {
        self.layer_places.last_key_value().map(|(layer, _)| *layer)
    }

    /// All stored tiles of `layer` are in memory again, in a grid for looking at: it is as if it had never left.
    pub fn returned(&mut self, layer: i32) {
        if let Some(place) = self.layer_places.get(&layer) {
            let layer = &mut self.layers[*place as usize];
            (layer.generations, layer.stored_bytes) = (0, 0);
            layer.figures.clear();
        }
    }

    /// The machine says that `layer` is done. Whether that is new.
    pub fn finish_layer(&mut self, layer: i32) -> bool {
        let Some(place) = self.layer_places.get(&layer) else { return false };
        let layer = &mut self.layers[*place as usize];
        !std::mem::replace(&mut layer.is_finished, true)
    }

    /// No row earlier than `watermark` follows: finishes every layer below one that began before it. The newly finished ones, from the
    /// lowest.
    pub fn finish_layers(&mut self, watermark: Timestamp) -> Vec<i32> {
        let mut finished = Vec::new();
        let mut is_below = false;
        for place in self.layer_places.range(self.open_from..).rev().map(|(_, place)| place) {
            let layer = &mut self.layers[*place as usize];
            if is_below && !layer.is_finished {
                layer.is_finished = true;
                finished.push(layer.layer);
            }
            is_below |= layer.first_time < watermark.0;
        }
        let mut open = self.layer_places.range(self.open_from..);
        let first = open.find(|(_, place)| !self.layers[**place as usize].is_finished);
        self.open_from = first.map_or(i32::MAX, |(layer, _)| *layer);
        finished.reverse();
        finished
    }

    /// A layer in figures. Of one that left memory, `filled` and `missing` are as they were then.
    pub fn layer_summary(&self, layer: i32, signal: usize) -> LayerSummary {
        let stored = self.layer_places.get(&layer).and_then(|place| self.layers[*place as usize].figures.get(signal));
        let live = || self.figures(layer, signal);
        let figures = stored.map_or_else(live, |stored| stored.with(live()));
        self.summary(layer, signal, figures)
    }

    fn summary(&self, layer: i32, signal: usize, figures: Figures) -> LayerSummary {
        let Figures { count, all, filled, expected, missing } = figures;
        let completeness = |expected: u64| (expected > 0).then(|| (expected - missing) as f64 / expected as f64);
        LayerSummary {
            layer,
            z_mm: self.config.axes()[2].lower_mm(layer),
            signal: self.signals()[signal].clone(),
            count,
            mean: all.map(|all| all.mean),
            variance: all.and_then(|all| all.variance()),
            min: all.map(|all| all.min),
            max: all.map(|all| all.max),
            filled,
            expected,
            completeness: expected.and_then(completeness),
            is_finished: self.layer(layer).is_some_and(|status| status.is_finished),
        }
    }

    /// Of a layer, the voxels in memory whose centres lie in `region`; all of those are expected. `None` if the layer's middle does not lie
    /// in it.
    pub fn layer_region_summary(&self, layer: i32, signal: usize, region: &super::Region) -> Option<LayerSummary> {
        let z = self.config.axes()[2].center_mm(layer);
        if !(region.lower[2]..=region.upper[2]).contains(&z) {
            return None;
        }
        let keys = self.keys(|tile| tile.key.layer() == layer && self.may_meet(tile.key, region));
        let mut figures = Figures::default();
        for (_, stats) in self.voxels_of(keys, signal).filter(|(index, _)| region.contains(self.config.center_mm(*index))) {
            figures.add(&stats);
        }
        let [across, along] = [0, 1].map(|axis| self.config.axes()[axis].centers_within(region.lower[axis], region.upper[axis]));
        let expected = across.count() as u64 * along.count() as u64;
        (figures.expected, figures.missing) = (Some(expected), expected.saturating_sub(figures.filled));
        Some(self.summary(layer, signal, figures))
    }

    /// Of the voxels in memory.
    fn figures(&self, layer: i32, signal: usize) -> Figures {
        let mut figures = Figures::default();
        for (_, stats) in self.layer_voxels(layer, signal) {
            figures.add(&stats);
        }
        let frozen = self.layer_places.get(&layer).and_then(|place| self.layers[*place as usize].gaps.get(signal));
        let (expected, missing) = frozen.copied().unwrap_or_else(|| self.gaps(layer, signal));
        Figures { expected, missing, ..figures }
    }

    fn gaps(&self, layer: i32, signal: usize) -> (Option<u64>, u64) {
        let gaps = self.missing(layer, signal, 0);
        (gaps.expected, gaps.missing)
    }

    /// Before the layer at `place` leaves memory.
    pub(super) fn keep_figures(&mut self, place: u32) {
        let layer = self.layers[place as usize].layer;
        let live: Vec<Figures> = (0..self.lanes.len()).map(|signal| self.figures(layer, signal)).collect();
        let above = layer.checked_add(1).and_then(|above| self.layer_places.get(&above)).copied();
        if let Some(above) = above.filter(|_| self.config.settings().expected == Expected::LayerBelow) {
            let above_layer = self.layers[above as usize].layer;
            let gaps = (0..self.lanes.len()).map(|signal| self.gaps(above_layer, signal)).collect();
            self.layers[above as usize].gaps = gaps;
        }
        let kept = &mut self.layers[place as usize].figures;
        if kept.is_empty() {
            *kept = live;
        } else {
            kept.iter_mut().zip(live).for_each(|(kept, live)| *kept = kept.with(live));
        }
    }

    /// The expected voxels of a layer without a value of `signal`, the first `voxels_max` of them by name.
    pub fn missing(&self, layer: i32, signal: usize, voxels_max: usize) -> Missing {
        match &self.config.settings().expected {
            Expected::Plate => self.missing_of_plate(layer, signal, voxels_max),
            Expected::Parts(parts) => {
                let mut voxels: Vec<[i32; 2]> = parts.iter().flat_map(|part| self.part_voxels(part, layer)).collect();
                voxels.sort_unstable_by_key(|[i, j]| (*j, *i));
                voxels.dedup();
                self.missing_of(voxels, layer, signal, voxels_max)
            }
            Expected::LayerBelow => {
                let mut voxels: Vec<[i32; 2]> =
                    self.layer_voxels(layer.saturating_sub(1), signal).map(|([i, j, _], _)| [i, j]).collect();
                voxels.sort_unstable_by_key(|[i, j]| (*j, *i));
                self.missing_of(voxels, layer, signal, voxels_max)
            }
        }
    }

    fn missing_of_plate(&self, layer: i32, signal: usize, voxels_max: usize) -> Missing {
        if self.config.settings().size.is_none() {
            return Missing::default();
        }
        let axes = self.config.axes();
        let expected = axes[0].voxels() * axes[1].voxels();
        let filled = self.layer_voxels(layer, signal).count() as u64;
        let ((i_first, i_last), (j_first, j_last)) = (axes[0].range(), axes[1].range());
        let plate = (j_first..=j_last).flat_map(|j| (i_first..=i_last).map(move |i| [i, j]));
        let is_missing = |voxel: &[i32; 2]| self.get([voxel[0], voxel[1], layer], signal).is_none();
        let voxels = plate.filter(is_missing).take(voxels_max).collect();
        Missing { expected: Some(expected), missing: expected - filled, voxels }
    }

    fn missing_of(&self, wanted: Vec<[i32; 2]>, layer: i32, signal: usize, voxels_max: usize) -> Missing {
        let expected = wanted.len() as u64;
        let is_missing = |voxel: &[i32; 2]| self.get([voxel[0], voxel[1], layer], signal).is_none();
        let mut voxels: Vec<[i32; 2]> = wanted.into_iter().filter(is_missing).collect();
        let missing = voxels.len() as u64;
        voxels.truncate(voxels_max);
        Missing { expected: Some(expected), missing, voxels }
    }

    /// The voxels of `layer` whose centres lie in `part`.
    fn part_voxels(&self, part: &super::Region, layer: i32) -> Vec<[i32; 2]> {
        let axes = self.config.axes();
        let z = axes[2].center_mm(layer);
        if !(part.lower[2]..=part.upper[2]).contains(&z) {
            return Vec::new();
        }
        let [along_x, along_y] = [0, 1].map(|axis| axes[axis].centers_within(part.lower[axis], part.upper[axis]));
        along_y.flat_map(|j| along_x.clone().map(move |i| [i, j])).collect()
    }
}
