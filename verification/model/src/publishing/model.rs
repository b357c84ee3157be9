//! The steps that are possible in a state, and the state after each.

use oncelog::relay::transaction::Action;
use stateright::{Model, Property};

use super::{
    Broker, Doing, Happens, Process, Producer, Publishing, State, Step, Writing, broker::PROCESSES, properties,
};

/// Returns the faults that are possible in the next step of a process.
fn faults(process: &Process, broker: &Broker) -> &'static [Step] {
    let takes = broker.takes(Producer { process: process.number, turn: process.turn });
    match process.doing {
        Doing::Writing(Writing { action, .. }) if takes => match action {
            Action::Drain => &[Step::RecordLost],
            Action::Commit | Action::Abort => &[Step::SentTwice, Step::AnswerLost, Step::HeldBack],
            Action::Begin | Action::Send | Action::Finish(_) => &[],
        },
        Doing::Writing(_)
        | Doing::Down
        | Doing::Looking
        | Doing::Opening { .. }
        | Doing::Deciding
        | Doing::Waiting
        | Doing::Refused(_) => &[],
    }
}

impl Publishing {
    /// Returns the steps that happen without a fault and without a new event.
    fn progress(&self, state: &State) -> impl Iterator<Item = Happens> {
        let starts = state.processes.iter().filter(|process| process.doing == Doing::Down);
        let opens = state.processes.iter().flat_map(|process| self.opens(process, true));
        let steps = state.processes.iter().filter(|process| process.is_busy(&state.broker));
        let left_open = state.broker.log.iter().filter_map(|entry| entry.open);
        let left_open = left_open.filter(|by| !state.processes[by.process].is_running());
        let starts = starts.map(|process| Happens::Start(process.number));
        let steps = steps.map(|process| Happens::Step(process.number, Step::Well));
        starts.chain(opens).chain(steps).chain(left_open.map(Happens::TimeOut))
    }

    fn opens(&self, process: &Process, answered: bool) -> impl Iterator<Item = Happens> + use<> {
        let number = process.number;
        process.to_open(self.off).map(move |turn| Happens::Opens { process: number, turn, answered })
    }

    /// Returns true if the system is idle: without a fault or a new event, no step is left.
    pub fn is_quiet(&self, state: &State) -> bool {
        self.progress(state).next().is_none()
    }
}

impl Model for Publishing {
    type State = State;
    type Action = Happens;

    fn init_states(&self) -> Vec<State> {
        let first = Process::new(0, Vec::new());
        let broker = Broker { keeps_superseded: self.faults.losses > 0, ..Broker::default() };
        vec![State { broker, processes: vec![first], faults: self.faults }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Happens>) {
        actions.extend(self.progress(state));
        if state.processes.len() < PROCESSES {
            actions.push(Happens::Copy);
        }
        for process in &state.processes {
            // A busy process reads new events only when it looks for work, so it records them only then.
            let looks = matches!(process.doing, Doing::Looking | Doing::Waiting);
            if looks && process.store.len() < self.events {
                actions.push(Happens::Append(process.number));
            }
            if process.is_running() && state.faults.crashes > 0 {
                actions.push(Happens::Crash(process.number));
            }
            if state.faults.network > 0 {
                actions.extend(self.opens(process, false));
                let faults = faults(process, &state.broker).iter();
                actions.extend(faults.map(|fault| Happens::Step(process.number, *fault)));
            }
        }
        actions.extend(state.broker.under_way.iter().map(|end| Happens::Arrives(*end)));
        if state.faults.losses > 0 {
            actions.extend(state.broker.superseded.map(|_| Happens::LoseCheckpoint));
            actions.extend(state.broker.events().last().map(|_| Happens::LoseEvent));
        }
        if state.faults.time_outs > 0 {
            let open = state.broker.log.iter().filter_map(|entry| entry.open);
            actions.extend(open.filter(|by| state.processes[by.process].is_running()).map(Happens::TimeOut));
        }
    }

    fn next_state(&self, before: &State, happens: Happens) -> Option<State> {
        let mut state = before.clone();
        let State { broker, processes, faults } = &mut state;
        match happens {
            Happens::Start(number) => processes[number].start(),
            Happens::Append(number) => processes[number].append(),
            Happens::Copy => processes.push(Process::new(processes.len(), processes[0].store.clone())),
            Happens::Opens { process, turn, answered } => {
                faults.network -= u8::from(!answered);
                processes[process].opens(turn, answered, broker, self.off);
            }
            Happens::Step(number, step) => {
                faults.network -= u8::from(step != Step::Well);
                processes[number].step(step, broker, self);
            }
            Happens::Crash(number) => {
                faults.crashes -= 1;
                processes[number].crash();
            }
            Happens::Arrives(end) => {
                let index = broker.under_way.iter().position(|other| *other == end)?;
                broker.under_way.remove(index);
                broker.end(end);
            }
            Happens::LoseCheckpoint => {
                faults.losses -= 1;
                broker.lose_checkpoint();
            }
            Happens::LoseEvent => {
                faults.losses -= 1;
                broker.lose_event();
            }
            Happens::TimeOut(by) => {
                faults.time_outs -= u8::from(processes[by.process].is_running());
                broker.time_out(by);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
