//! Storage in memory that can fail, and that can stop as a machine does when its power goes: whatever was not synced is
//! then there, or not, or half there.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use redb::StorageBackend;

#[derive(Clone, Debug, Default)]
pub(super) struct Platter(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    /// As it is read.
    current: Vec<u8>,
    /// As it was at the last sync.
    synced: Vec<u8>,
    /// Since then.
    unsynced: Vec<Step>,
    fail_writes: bool,
    fail_syncs: bool,
    /// Syncs do not return while this is so.
    hang_syncs: bool,
    hanging: usize,
    /// Steps until the power goes; `None`: it stays.
    left: Option<usize>,
    is_dead: bool,
}

#[derive(Debug)]
enum Step {
    Length(usize),
    Write(usize, Vec<u8>),
}

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }
}

impl Platter {
    pub(super) fn fail_writes(&self, fail: bool) {
        self.state().fail_writes = fail;
    }

    pub(super) fn fail_syncs(&self, fail: bool) {
        self.state().fail_syncs = fail;
    }

    /// From now on syncs do not return, or they all do.
    pub(super) fn hang_syncs(&self, hang: bool) {
        self.state().hang_syncs = hang;
        self.0.1.notify_all();
    }

    /// Returns when a sync hangs.
    pub(super) fn until_it_hangs(&self) {
        drop(self.0.1.wait_while(self.state(), |state| !state.hang_syncs || state.hanging == 0).unwrap());
    }

    /// The power goes after so many further steps.
    pub(super) fn die_after(&self, steps: usize) {
        self.state().left = Some(steps);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    /// What is found when the power is back. Of each step since the last sync all, nothing or some sectors are there,
    /// independently of the others.
    pub(super) fn after_the_crash(&self, random: &mut Random) -> Self {
        let state = self.state();
        let mut image = state.synced.clone();
        for step in &state.unsynced {
            match (step, random.below(4)) {
                (_, 0) => {}
                (Step::Length(len), _) => image.resize(*len, 0),
                (Step::Write(at, data), fate) => {
                    if image.len() < at + data.len() {
                        image.resize(at + data.len(), 0);
                    }
                    for (sector, bytes) in data.chunks(SECTOR).enumerate() {
                        if fate != 1 || random.below(2) == 0 {
                            let at = at + sector * SECTOR;
                            image[at..at + bytes.len()].copy_from_slice(bytes);
                        }
                    }
                }
            }
        }
        let state = State { current: image.clone(), synced: image, ..State::default() };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        match &mut state.left {
            None => {}
            Some(0) => state.is_dead = true,
            Some(left) => *left -= 1,
        }
        if state.is_dead { Err(io::Error::other("there is no power")) } else { Ok(state) }
    }
}

impl StorageBackend for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.state().current.len()).unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let at = usize::try_from(offset).unwrap();
        let found = state.current.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        if state.is_dead { Err(io::Error::other("there is no power")) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.step()?;
        let len = usize::try_from(len).unwrap();
        state.current.resize(len, 0);
        state.unsynced.push(Step::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.step()?;
        state.hanging += 1;
        self.0.1.notify_all();
        let mut state = self.0.1.wait_while(state, |state| state.hang_syncs).unwrap();
        state.hanging -= 1;
        if state.fail_syncs {
            return Err(io::Error::other("the disk does not answer"));
        }
        for step in std::mem::take(&mut state.unsynced) {
            match step {
                Step::Length(len) => state.synced.resize(len, 0),
                Step::Write(at, data) => state.synced[at..at + data.len()].copy_from_slice(&data),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.step()?;
        if state.fail_writes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let at = usize::try_from(offset).unwrap();
        state.current[at..at + data.len()].copy_from_slice(data);
        state.unsynced.push(Step::Write(at, data.to_vec()));
        Ok(())
    }
}

const SECTOR: usize = 512;
