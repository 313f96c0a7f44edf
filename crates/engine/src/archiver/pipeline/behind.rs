//! What is done behind the pushes: in order, one after another, and lost without harm.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

/// Runs what nobody waits for.
pub(super) struct Behind {
    running: watch::Sender<usize>,
    order: Mutex<()>,
}

/// Counts a task as long as it lives, however it ends.
struct Running(Arc<Behind>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

impl Behind {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { running: watch::Sender::new(0), order: Mutex::const_new(()) })
    }

    /// Runs something after what was begun before. Without a runtime, at the end of a process, it is left undone.
    pub(super) fn run(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.running.send_modify(|running| *running += 1);
        let running = Running(Arc::clone(self));
        runtime.spawn(async move {
            let _turn = running.0.order.lock().await;
            work.await;
        });
    }

    /// Waits until nothing is running.
    pub(super) async fn settled(&self) {
        // The sender lives as long as this.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }
}
