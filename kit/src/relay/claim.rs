//! What a checkpoint tells the process that is about to publish from it. Pure: the relay asks, and so does the model.

use crate::{
    event::{EventId, Position},
    relay::{
        checkpoint::{Checkpoint, Publisher},
        transaction::Outcome,
    },
};

/// A process's claim to publish its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The process.
    pub publisher: Publisher,
    /// Whether a checkpoint has said so. From then on, another one's name there means that it has taken over.
    pub held: bool,
}

/// Why a process must not publish from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disagreement {
    /// Another process has written it since this one began to publish.
    TakenOver,
    /// The store does not have the event that was published last.
    StoreBehind,
}

impl Claim {
    /// A claim that no checkpoint knows of yet.
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher, held: false }
    }

    /// Whether it is to be written before anything is published from this checkpoint: it names another process, which
    /// would not learn that it was replaced. Its own name is enough, whichever of its producers wrote it: on a broker
    /// so slow that every commit costs its producer, no second one would be any better.
    pub fn must_be_rewritten(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.publisher != self.publisher
    }

    /// Takes note of how a transaction ended whose checkpoint names this process: also when its producer is replaced.
    pub fn note(&mut self, outcome: Outcome) {
        self.held |= outcome == Outcome::Committed;
    }

    /// From where to publish after this checkpoint, given the store's event at its position.
    ///
    /// The store's head alone would not tell: an older copy goes on from where it ends, with other events.
    pub fn check(&mut self, checkpoint: &Checkpoint, stored: Option<EventId>) -> Result<Position, Disagreement> {
        self.held |= !self.must_be_rewritten(checkpoint); // the answer to its commit may have been lost
        if self.held && self.must_be_rewritten(checkpoint) {
            return Err(Disagreement::TakenOver);
        }
        if stored != checkpoint.event {
            return Err(Disagreement::StoreBehind);
        }
        Ok(checkpoint.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim::new(Publisher::generate())
    }

    fn by(publisher: Publisher) -> Checkpoint {
        Checkpoint { position: Position(1), event: Some(EventId::generate()), publisher }
    }

    #[test]
    fn a_new_publisher_goes_on_from_where_another_stopped() {
        let checkpoint = by(Publisher::generate());
        assert_eq!(claim().check(&checkpoint, checkpoint.event), Ok(Position(1)));
    }

    #[test]
    fn a_store_without_the_event_that_was_published_is_an_older_copy() {
        let checkpoint = by(Publisher::generate());
        for stored in [None, Some(EventId::generate())] {
            assert_eq!(claim().check(&checkpoint, stored), Err(Disagreement::StoreBehind));
        }
    }

    #[test]
    fn a_publisher_gives_way_to_its_successor_however_it_learned_that_it_was_one() {
        let successor = by(Publisher::generate());
        let mut told = claim();
        told.note(Outcome::Committed);
        let mut read_back = claim();
        let own = by(read_back.publisher);
        assert_eq!(read_back.check(&own, own.event), Ok(Position(1)));
        assert!(!read_back.must_be_rewritten(&own) && read_back.must_be_rewritten(&successor));
        for mut claim in [told, read_back] {
            assert_eq!(claim.check(&successor, successor.event), Err(Disagreement::TakenOver));
        }
    }

    #[test]
    fn a_claim_that_no_checkpoint_knows_of_gives_way_to_nobody() {
        for outcome in [Outcome::NotCommitted, Outcome::Unknown] {
            let mut claim = claim();
            claim.note(outcome);
            let checkpoint = by(Publisher::generate());
            assert_eq!(claim.check(&checkpoint, checkpoint.event), Ok(Position(1)));
        }
    }
}
