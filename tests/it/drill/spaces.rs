//! Tablespaces: those of the backup get places in the drill, younger ones are left alone.

use walden_pg::PgMajor;

use super::{Bench, check};

#[test]
fn tablespaces_stay_inside_of_the_drill() {
    let bench = Bench::new(PgMajor::V17);
    let space = bench.server.scratch_dir("space").unwrap();
    bench.server.execute(&format!("CREATE TABLESPACE apart LOCATION '{}'", space.display())).unwrap();
    bench
        .server
        .execute("CREATE TABLE kept TABLESPACE apart AS SELECT generate_series(1, 1000) AS id")
        .unwrap();
    bench.server.archive_current_segment().unwrap();

    // It is younger than the backup, and replay would create it where the source has it.
    let refused = bench.drill(19, &[]);
    let told = format!("{} {}", refused["error"], refused["log"]);
    assert!(told.contains("outside of the drill"), "{told}");

    bench.walden.json_at(&bench.server, &["backup", "create"]);
    bench.server.execute("INSERT INTO kept SELECT generate_series(1001, 1500)").unwrap();
    bench.server.archive_current_segment().unwrap();
    let report = bench.drill(0, &["--skip-check", "amcheck"]);
    let counts = check(&report, "row counts")["detail"].as_str().unwrap();
    assert!(counts.contains("public.kept: 1500"), "{counts}");
    let kept: i64 = bench.server.value("SELECT count(*) FROM kept").unwrap();
    assert_eq!(kept, 1500);
}
