//! Tiles as bytes, for checkpoints and for layers that leave memory.
//!
//! ```text
//! u8 format (2) · u8 lanes (1 weight, 2 sum, 4 first, 8 last) · u16 signals
//! per signal: 1024 bits, 1 = the voxel has a value (cell order, low bit first), then by lane the voxels' values:
//!             u32 count · f64 mean · f64 m2 · f64 min · f64 max
//!             [· f64 weight] [· f64 sum · f64 lost] [· i64 first time · f64 first] [· i64 last time · f64 last]
//! u32 CRC-32 of all before
//! ```
//!
//! Little-endian. A voxel takes 36 bytes and what its optional lanes take; empty voxels take one bit. Bytes that were cut, changed
//! or written by a grid with other lanes are refused as a whole.

use super::{
    Expected, Grid, GridError, Region, Stamped, Stats, Sum, TileKey, Weights,
    tile::{Lanes, TILE_VOXELS},
};

const FORMAT: u8 = 2;
const WEIGHT: u8 = 1;
const SUM: u8 = 2;
const FIRST: u8 = 4;
const LAST: u8 = 8;
const BITMAP_BYTES: usize = TILE_VOXELS / 8;

/// A tile at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileBlob {
    /// Which one.
    pub key: TileKey,
    /// As the module's page draws them.
    pub bytes: Vec<u8>,
}

/// A layer that left memory, or what came for it after it had left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departed {
    /// Which one.
    pub layer: i32,
    /// How often it had left before: what comes later is kept beside what was there.
    pub generation: u32,
    /// Its tiles, by key.
    pub tiles: Vec<TileBlob>,
}

/// A tile as it was at a moment: a plain copy, of which any thread can make bytes.
#[derive(Debug, Clone)]
pub struct TileCopy {
    key: TileKey,
    lane_bits: u8,
    /// By signal, each with this tile alone.
    lanes: Vec<Lanes>,
}

impl TileCopy {
    /// The tile as bytes.
    pub fn blob(&self) -> TileBlob {
        blob(self.key, self.lane_bits, &self.lanes, 0)
    }
}

/// What is known of a tile's voxels, by signal: places that have a value, and it.
type Decoded = Vec<Vec<(usize, Stats)>>;

impl Grid {
    /// The tiles touched after `version`, sorted by key, for a checkpoint at this version.
    pub fn touched_tiles(&self, version: u64) -> Vec<TileBlob> {
        self.touched_since(version).into_iter().filter_map(|key| self.blob(key)).collect()
    }

    /// Copies of the same tiles: what a checkpoint keeps whoever works on the grid from making bytes.
    pub fn touched_copies(&self, version: u64) -> Vec<TileCopy> {
        let copy = |key: TileKey| {
            let slot = *self.slots.get(&key.0)? as usize;
            let lanes = self.lanes.iter().map(|lanes| lanes.alone(slot)).collect();
            Some(TileCopy { key, lane_bits: self.lane_bits(), lanes })
        };
        self.touched_since(version).into_iter().filter_map(copy).collect()
    }

    /// The tiles of a layer, sorted by key.
    pub fn layer_tiles(&self, layer: i32) -> Vec<TileBlob> {
        self.layer_keys(layer).into_iter().filter_map(|key| self.blob(key)).collect()
    }

    /// Whether a tile can have a voxel whose centre lies in `region`.
    pub fn meets(&self, key: TileKey, region: &Region) -> bool {
        self.may_meet(key, region)
    }

    /// Whether a quarter of the memory or less is left: time to [`Grid::evict_finished`].
    pub fn is_nearly_full(&self) -> bool {
        self.bytes() > self.config.settings().bytes_max / 4 * 3
    }

    /// Lets finished layers leave memory, from the lowest, until half of it is free. What is returned has to be kept: whoever looks at
    /// such a layer loads its tiles into a grid of their own ([`Grid::restore_tile`]), the latest generation first.
    pub fn evict_finished(&mut self) -> Vec<Departed> {
        let mut departed = Vec::new();
        let places: Vec<u32> = self.layer_places.values().copied().collect();
        for place in places {
            if self.bytes() <= self.config.settings().bytes_max / 2 {
                break;
            }
            if self.layers[place as usize].is_finished && !self.is_compared(place) {
                departed.extend(self.evict(place));
            }
        }
        departed
    }

    /// Whether the layer above is counted against this one and not finished yet.
    fn is_compared(&self, place: u32) -> bool {
        let above = self.layers[place as usize].layer.checked_add(1).and_then(|above| self.layer_places.get(&above));
        let is_open = above.is_none_or(|above| !self.layers[*above as usize].is_finished);
        self.config.settings().expected == Expected::LayerBelow && is_open
    }

    fn evict(&mut self, place: u32) -> Option<Departed> {
        let number = self.layers[place as usize].layer;
        let keys = self.layer_keys(number);
        if keys.is_empty() {
            return None;
        }
        self.keep_figures(place);
        let tiles: Vec<TileBlob> = keys.iter().filter_map(|key| self.blob(*key)).collect();
        for key in keys {
            self.remove(key);
        }
        let layer = &mut self.layers[place as usize];
        let generation = layer.generations;
        layer.generations += 1;
        layer.stored_bytes += tiles.iter().map(|tile| tile.bytes.len() as u64).sum::<u64>();
        Some(Departed { layer: number, generation, tiles })
    }

    /// What the tiles of layers that left memory take.
    pub fn stored_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.stored_bytes).sum()
    }

    /// Forgets the voxels of layers that left memory, from the lowest, until the others take `bytes_max` or less; their figures stay.
    /// Whose tiles are to be removed.
    pub fn forget_stored(&mut self, bytes_max: u64) -> Vec<i32> {
        let mut bytes = self.stored_bytes();
        let mut forgotten = Vec::new();
        for place in self.layer_places.values() {
            if bytes <= bytes_max {
                break;
            }
            let layer = &mut self.layers[*place as usize];
            if layer.stored_bytes > 0 {
                bytes -= layer.stored_bytes;
                layer.stored_bytes = 0;
                layer.is_forgotten = true;
                forgotten.push(layer.layer);
            }
        }
        forgotten
    }

    fn blob(&self, key: TileKey) -> Option<TileBlob> {
        let slot = *self.slots.get(&key.0)? as usize;
        Some(blob(key, self.lane_bits(), &self.lanes, slot))
    }

    /// Adds a stored tile to what is in memory, if anything: at recovery, after [`Grid::restore`], and to look at evicted layers. Counts
    /// as touched by the grid's version, which the checkpoint has seen.
    ///
    /// # Errors
    /// Bytes that are no tile of this grid.
    pub fn restore_tile(&mut self, key: TileKey, bytes: &[u8]) -> Result<(), GridError> {
        let refused = |why| GridError::Tile { key: key.0, why };
        let in_box = |voxel: [i32; 3]| (0..3).all(|axis| self.config.axes()[axis].contains(voxel[axis]));
        if key.0 >> 63 != 0 || !in_box(key.origin()) {
            return Err(refused("it lies outside the grid's box"));
        }
        let (lanes, decoded) = decode(bytes).map_err(refused)?;
        if lanes != self.lane_bits() || decoded.len() != self.lanes.len() {
            return Err(refused("it has other signals or statistics than the grid"));
        }
        let slot = self.slot_or_new(key);
        self.tiles[slot].version = self.tiles[slot].version.max(self.version);
        for (lanes, voxels) in self.lanes.iter_mut().zip(&decoded) {
            for (cell, stats) in voxels {
                lanes.restore(slot, *cell, stats);
            }
        }
        Ok(())
    }

    fn lane_bits(&self) -> u8 {
        let settings = self.config.settings();
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        bit(settings.weights == Weights::Trilinear, WEIGHT)
            | bit(settings.lanes.sum, SUM)
            | bit(settings.lanes.first, FIRST)
            | bit(settings.lanes.last, LAST)
    }
}

fn blob(key: TileKey, lane_bits: u8, lanes: &[Lanes], slot: usize) -> TileBlob {
    let voxels = |lanes: &Lanes| (0..TILE_VOXELS).filter_map(|cell| lanes.get(slot, cell).map(|stats| (cell, stats))).collect();
    let decoded: Decoded = lanes.iter().map(voxels).collect();
    TileBlob { key, bytes: encode(lane_bits, &decoded) }
}

fn encode(lanes: u8, signals: &[Vec<(usize, Stats)>]) -> Vec<u8> {
    let voxels: usize = signals.iter().map(Vec::len).sum();
    let mut bytes = Vec::with_capacity(8 + signals.len() * BITMAP_BYTES + voxels * 92);
    bytes.extend([FORMAT, lanes]);
    bytes.extend((signals.len() as u16).to_le_bytes());
    for voxels in signals {
        encode_signal(&mut bytes, lanes, voxels);
    }
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn encode_signal(bytes: &mut Vec<u8>, lanes: u8, voxels: &[(usize, Stats)]) {
    let mut bitmap = [0_u8; BITMAP_BYTES];
    for (cell, _) in voxels {
        bitmap[cell / 8] |= 1 << (cell % 8);
    }
    bytes.extend(bitmap);
    bytes.extend(voxels.iter().flat_map(|(_, stats)| stats.count.to_le_bytes()));
    let mut lane = |get: fn(&Stats) -> [u8; 8]| bytes.extend(voxels.iter().flat_map(|(_, stats)| get(stats)));
    lane(|stats| stats.mean.to_le_bytes());
    lane(|stats| stats.m2.to_le_bytes());
    lane(|stats| stats.min.to_le_bytes());
    lane(|stats| stats.max.to_le_bytes());
    if lanes & WEIGHT != 0 {
        lane(|stats| stats.weight.to_le_bytes());
    }
    if lanes & SUM != 0 {
        lane(|stats| stats.sum.unwrap_or_default().total.to_le_bytes());
        lane(|stats| stats.sum.unwrap_or_default().lost.to_le_bytes());
    }
    if lanes & FIRST != 0 {
        lane(|stats| stats.first.map_or(0, |first| first.time).to_le_bytes());
        lane(|stats| stats.first.map_or(f64::NAN, |first| first.value).to_le_bytes());
    }
    if lanes & LAST != 0 {
        lane(|stats| stats.last.map_or(0, |last| last.time).to_le_bytes());
        lane(|stats| stats.last.map_or(f64::NAN, |last| last.value).to_le_bytes());
    }
}

/// The lanes and voxels of a tile, or what is wrong with it.
fn decode(bytes: &[u8]) -> Result<(u8, Decoded), &'static str> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or("it is cut short")?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err("its checksum is wrong");
    }
    let mut reader = Reader(body);
    let [format, lanes] = reader.take::<2>()?;
    if format != FORMAT || lanes & !(WEIGHT | SUM | FIRST | LAST) != 0 {
        return Err("it is of a format this version does not know");
    }
    let signals = u16::from_le_bytes(reader.take()?);
    let decoded = (0..signals).map(|_| reader.signal(lanes)).collect::<Result<_, _>>()?;
    if reader.0.is_empty() { Ok((lanes, decoded)) } else { Err("it is too long") }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or("it is cut short")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn lane<T>(&mut self, voxels: usize, from: fn([u8; 8]) -> T) -> Result<Vec<T>, &'static str> {
        (0..voxels).map(|_| self.take().map(from)).collect()
    }

    fn reals(&mut self, voxels: usize) -> Result<Vec<f64>, &'static str> {
        self.lane(voxels, f64::from_le_bytes)
    }

    fn stamped(&mut self, voxels: usize) -> Result<Vec<Stamped>, &'static str> {
        let (times, values) = (self.lane(voxels, i64::from_le_bytes)?, self.reals(voxels)?);
        Ok(times.into_iter().zip(values).map(|(time, value)| Stamped { time, value }).collect())
    }

    fn signal(&mut self, lanes: u8) -> Result<Vec<(usize, Stats)>, &'static str> {
        let bitmap = self.take::<BITMAP_BYTES>()?;
        let cells: Vec<usize> = (0..TILE_VOXELS).filter(|cell| bitmap[cell / 8] >> (cell % 8) & 1 == 1).collect();
        let voxels = cells.len();
        let count = (0..voxels).map(|_| self.take().map(u32::from_le_bytes)).collect::<Result<Vec<_>, _>>()?;
        if count.contains(&0) {
            return Err("it has a voxel of no rows");
        }
        let (mean, m2, min, max) = (self.reals(voxels)?, self.reals(voxels)?, self.reals(voxels)?, self.reals(voxels)?);
        let weight = if lanes & WEIGHT == 0 { None } else { Some(self.reals(voxels)?) };
        let sum = if lanes & SUM == 0 { None } else { Some((self.reals(voxels)?, self.reals(voxels)?)) };
        let first = if lanes & FIRST == 0 { None } else { Some(self.stamped(voxels)?) };
        let last = if lanes & LAST == 0 { None } else { Some(self.stamped(voxels)?) };
        let stats = |at: usize| Stats {
            count: count[at],
            weight: weight.as_ref().map_or(f64::from(count[at]), |weight| weight[at]),
            mean: mean[at],
            m2: m2[at],
            min: min[at],
            max: max[at],
            sum: sum.as_ref().map(|(total, lost)| Sum { total: total[at], lost: lost[at] }),
            first: first.as_ref().map(|first| first[at]),
            last: last.as_ref().map(|last| last[at]),
        };
        Ok(cells.into_iter().enumerate().map(|(at, cell)| (cell, stats(at))).collect())
    }
}
