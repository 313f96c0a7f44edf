//! What the campaign found, each by itself.

use std::sync::Arc;

use walden_engine::{Archiver, DataDirectory, find_incarnation, load_snapshot};
use walden_testkit::simulation::{ConditionalPuts, Faults};

use crate::wal::wal;
use crate::world::{Cast, World};

/// Runs a world in which nothing fails by itself.
fn calmly<F: Future<Output = ()>>(act: impl FnOnce(Arc<World>) -> F) {
    let cast = Cast { faults: Faults::NONE, conditional: ConditionalPuts::Enforced, ..Cast::of(0) };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let world = World::new(0, cast);
        world.stage.clone().run(async { act(Arc::clone(&world)).await }).await;
        assert_eq!(world.model.violations(), Vec::<String>::new());
    });
}

#[test]
fn one_damaged_answer_makes_no_record_and_no_history_damaged() {
    calmly(|world| async move {
        world.initialize().await;
        let (host, actor) = (world.host("promoted", Some(&wal().promoted)), world.actor());
        let ctx = world.context(&host, actor);
        let data = DataDirectory::open(&host.data).unwrap();
        let archiver = Archiver::new(ctx.clone());
        archiver.push_from(&host.data.join("pg_wal/00000002.history"), &data).await.unwrap();
        world.stage.spoil_reads(1);
        let record = find_incarnation(&ctx, Some(&data)).await.unwrap();
        world.stage.spoil_reads(1);
        let snapshot = load_snapshot(&ctx, &record).await.unwrap();
        assert_eq!((snapshot.histories.len(), snapshot.strays.len()), (1, 0), "{:?}", snapshot.strays);
        // Damage that stays is damage.
        world.stage.spoil_reads(1000);
        assert!(find_incarnation(&ctx, Some(&data)).await.is_err());
    });
}
