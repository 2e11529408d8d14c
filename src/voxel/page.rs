//! Voxels for somebody who asks from outside: at most about so many at a time, by tiles, and where to go on.

use crate::model::VoxelState;

use super::{Grid, TileKey};

/// Voxels of whole tiles.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Sorted by index, then by signal in the grid's order.
    pub voxels: Vec<VoxelState>,
    /// Who asks for changes since this version next misses nothing.
    pub version: u64,
    /// Whether nothing was left out for lack of room.
    pub is_complete: bool,
}

impl Grid {
    /// The voxels in memory; of one layer, or of the tiles touched after a version, or both. Tiles are taken while there are not more
    /// than `voxels_max` states, changes from the oldest; at least one tile, and all of those touched by the same update.
    pub fn page(&self, layer: Option<i32>, since: Option<u64>, voxels_max: usize) -> Page {
        let mut tiles: Vec<(u64, TileKey)> = self
            .tiles
            .iter()
            .filter(|tile| since.is_none_or(|since| tile.version > since))
            .filter(|tile| layer.is_none_or(|layer| tile.key.layer() == layer))
            .map(|tile| (if since.is_some() { tile.version } else { 0 }, tile.key))
            .collect();
        tiles.sort_unstable();
        let (mut taken, mut states, mut version) = (Vec::new(), 0, since.unwrap_or(0));
        for (touched, key) in &tiles {
            let more = self.states_in(*key);
            let same_update = since.is_some() && *touched == version;
            if states + more > voxels_max && !taken.is_empty() && !same_update {
                break;
            }
            states += more;
            version = *touched;
            taken.push(*key);
        }
        let is_complete = taken.len() == tiles.len();
        let reached = if is_complete || since.is_none() { self.version } else { version };
        Page { voxels: self.states_of(&taken), version: reached, is_complete }
    }

    /// Voxels with a value, by signal, together.
    fn states_in(&self, key: TileKey) -> usize {
        let Some(slot) = self.slots.get(&key.0).map(|slot| *slot as usize) else { return 0 };
        self.lanes.iter().map(|lanes| lanes.cells[slot].iter().filter(|cell| cell.count > 0).count()).sum()
    }
}
