//! Threads that stay, each with a state of its own, that work off the same jobs in the same order.
//!
//! Jobs wait in a queue, so that whoever gives them goes on at once; answers are waited for in the order of the jobs, those of all members
//! together. While nothing is under way, the states can be looked at and changed from outside.

use std::{
    any::Any,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

/// Members with states `S`, jobs `J` and answers `A`.
pub struct Crew<S, J, A> {
    members: Vec<Member<S, J, A>>,
}

struct Member<S, J, A> {
    state: Arc<Mutex<S>>,
    jobs: Sender<Arc<J>>,
    answers: Receiver<thread::Result<A>>,
}

impl<S, J, A> fmt::Debug for Crew<S, J, A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Crew of {}", self.members.len())
    }
}

fn held<S>(state: &Mutex<S>) -> MutexGuard<'_, S> {
    // A member that panicked has said so, and does nothing more.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S, J, A> Crew<S, J, A>
where
    S: Send + 'static,
    J: Send + Sync + 'static,
    A: Send + 'static,
{
    /// A thread called `name`-0, `name`-1 … for each of `states`, which does `work` for each job.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn new(name: &str, states: Vec<S>, work: fn(&mut S, &J) -> A) -> io::Result<Self> {
        let mut members = Vec::with_capacity(states.len());
        for (number, state) in states.into_iter().enumerate() {
            let ((jobs, inbox), (outbox, answers)) = (channel::<Arc<J>>(), channel());
            let state = Arc::new(Mutex::new(state));
            let own = Arc::clone(&state);
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                for job in inbox {
                    let answer = catch_unwind(AssertUnwindSafe(|| work(&mut held(&own), &job)));
                    drop(job);
                    let ends = answer.is_err();
                    if outbox.send(answer).is_err() || ends {
                        return;
                    }
                }
            })?;
            members.push(Member { state, jobs, answers });
        }
        Ok(Self { members })
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Gives every member `job`.
    pub fn begin(&self, job: &Arc<J>) {
        for member in &self.members {
            // One that has ended says why when its answer is waited for.
            let _ = member.jobs.send(Arc::clone(job));
        }
    }

    /// What all members say of the first job that has not been waited for.
    ///
    /// # Errors
    /// What a member panicked with; it has ended then.
    pub fn wait(&self) -> Result<Vec<A>, Box<dyn Any + Send>> {
        let ended = |_| -> Box<dyn Any + Send> { Box::new("the thread has ended") };
        self.members.iter().map(|member| member.answers.recv().map_err(ended)?).collect()
    }

    /// The states of all members; only while nothing is under way.
    pub fn states(&self) -> impl Iterator<Item = MutexGuard<'_, S>> {
        self.members.iter().map(|member| held(&member.state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_jobs_and_states_stay() {
        let add = |sum: &mut u64, number: &u64| {
            *sum += number;
            *sum
        };
        let crew = Crew::new("adders", vec![0_u64, 100], add).expect("threads start");
        (1..=50).for_each(|number| crew.begin(&Arc::new(number)));
        for number in 1..=50 {
            let sum = number * (number + 1) / 2;
            assert_eq!(crew.wait().expect("nobody panics"), [sum, 100 + sum]);
        }
        assert_eq!(crew.states().map(|state| *state).collect::<Vec<_>>(), [1275, 1375]);
    }

    #[test]
    fn a_panic_is_handed_on_and_later_jobs_are_not_waited_for_in_vain() {
        let work = |(): &mut (), job: &u64| assert_ne!(*job, 2, "two is too many");
        let crew = Crew::new("odd", vec![()], work).expect("threads start");
        (1..=3).for_each(|number| crew.begin(&Arc::new(number)));
        crew.wait().expect("one is fine");
        let panic = crew.wait().expect_err("two is not");
        assert!(panic.downcast_ref::<String>().is_some_and(|words| words.contains("too many")));
        crew.wait().expect_err("it has ended");
    }
}
