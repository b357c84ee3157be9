//! Decides from the newest checkpoint whether a process may publish its store, and from which position. Pure: the relay
//! and the model both use it.

use crate::{
    event::{EventId, Position},
    relay::{
        checkpoint::{Checkpoint, Publisher},
        transaction::Outcome,
    },
};

/// The claim of a process to be the publisher of its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The process that claims.
    pub publisher: Publisher,
    /// True once a committed checkpoint has named this process. From then on, a checkpoint that names another process
    /// means that the other one has taken over.
    pub held: bool,
    /// The number of this process's term as the publisher.
    pub term: u64,
}

/// Why a process must not publish from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disagreement {
    /// Another process has written the checkpoint since this one began to publish.
    TakenOver,
    /// The store does not have the event that was published last.
    StoreBehind,
}

impl Claim {
    /// Returns a claim that is in no checkpoint yet.
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher, held: false, term: 1 }
    }

    /// Returns true if the claim must be written to the checkpoint before anything is published. That is so if the
    /// checkpoint names another process, which could not learn otherwise that it was replaced.
    ///
    /// A checkpoint with this process's name is enough, whichever of its producers wrote it. A broker can be so slow
    /// that every commit costs its producer; writing the claim again with each new producer would never end there.
    pub fn must_be_rewritten(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.publisher != self.publisher
    }

    /// Returns a checkpoint of this process.
    pub fn checkpoint(&self, position: Position, event: Option<EventId>) -> Checkpoint {
        Checkpoint { position, event, publisher: self.publisher, term: self.term }
    }

    /// Notes the outcome of a transaction whose checkpoint names this process, also if its producer is replaced.
    pub fn note(&mut self, outcome: Outcome) {
        self.held |= outcome == Outcome::Committed;
    }

    /// Returns the position to publish from. `stored` is the store's event at the position of the checkpoint.
    ///
    /// The store's head is not enough to detect an older copy of the store: such a copy continues from its end with
    /// other events, and its head can pass the checkpoint.
    pub fn check(&mut self, checkpoint: &Checkpoint, stored: Option<EventId>) -> Result<Position, Disagreement> {
        self.held |= !self.must_be_rewritten(checkpoint); // the answer to this process's own commit may have been lost
        if self.held && self.must_be_rewritten(checkpoint) {
            // A checkpoint of an earlier term means that the topic of checkpoints has lost its newest records. One of
            // 0.1.0 has no term.
            if checkpoint.term >= self.term || checkpoint.term == 0 {
                return Err(Disagreement::TakenOver);
            }
        } else if !self.held {
            self.term = self.term.max(checkpoint.term + 1);
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
        Checkpoint { position: Position(1), event: Some(EventId::generate()), publisher, term: 1 }
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
    fn a_successor_has_a_higher_term_and_a_checkpoint_that_went_back_takes_over_from_nobody() {
        let (before, mut claim) = (by(Publisher::generate()), claim());
        assert_eq!(claim.check(&before, before.event), Ok(Position(1)));
        assert_eq!(claim.term, 2);
        claim.note(Outcome::Committed);
        assert_eq!(claim.check(&before, before.event), Ok(Position(1)));
        assert!(claim.must_be_rewritten(&before));
        let successor = Checkpoint { term: 3, ..by(Publisher::generate()) };
        assert_eq!(claim.check(&successor, successor.event), Err(Disagreement::TakenOver));
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
