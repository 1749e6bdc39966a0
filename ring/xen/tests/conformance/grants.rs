//! Grants: what one domain grants, the other maps, and nothing else.

use xen::{Access, Error, GrantMap, Gref, Mapping, PAGE_SIZE, platform};

use super::child::{Order, Process};
use super::{
    Check, Half, NOBODY, Outcome, await_byte, await_signal, byte, ensure, ensure_fails, idle,
    quieten, set_byte,
};

pub fn checks() -> Vec<Check> {
    let both_ways = |name, granter, mapper| -> Vec<Check> {
        Check::both_ways(name, "grants", granter, mapper).into()
    };
    [
        both_ways("granted pages are shared", share, join),
        both_ways("pages are mapped in any order", scatter, gather),
        both_ways("read-only is read-only", show, peek),
        both_ways("what is not granted is not mapped", withhold, try_all),
        both_ways(
            "a batch is mapped whole or not at all",
            grant_some,
            want_more,
        ),
        // The guest's alone: dom0 may be in other runs, to which its limit applies as well.
        vec![Check::new("the limit of granted pages", idle, exhaust)],
        both_ways("unmapping is notified", lend, give_back),
        both_ways("a mapper's death is notified", lend, die_mapping),
        both_ways("taking back is notified", take_back, be_left),
        both_ways("a granter's death is notified", die_granting, be_left),
        both_ways(
            "granted pages are handed to a process",
            hand_granted,
            join_process,
        ),
        both_ways(
            "mapped pages are handed to a process",
            share_with_process,
            hand_mapped,
        ),
        both_ways("sizes without sense are refused", refuse_sizes, idle),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn tell_grefs(half: &Half, step: &str, grefs: &[Gref]) -> Outcome {
    let texts: Vec<_> = grefs.iter().map(Gref::to_string).collect();
    half.tell(step, texts.join(" "))
}

fn hear_grefs(half: &Half, step: &str) -> Outcome<Vec<Gref>> {
    let text = half.hear(step)?;
    Ok(text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?)
}

/// Maps what the other half granted. Real Xen finds out in the mmap whether that can be.
fn map(half: &Half, grefs: &[Gref], access: Access) -> platform::Result<(Mapping, GrantMap)> {
    let map = half.platform().map(half.peer(), grefs, access)?;
    Ok((map.mmap()?, map))
}

/// A value for each page, different for each writer.
fn mark(page: usize, writer: u8) -> u8 {
    page as u8 * 2 + writer
}

fn pages(mapping: &Mapping) -> impl Iterator<Item = usize> {
    0..mapping.len() / PAGE_SIZE
}

fn share(half: &Half) -> Outcome {
    let granted = half.platform().grant(half.peer(), 5, Access::ReadWrite)?;
    ensure!(
        granted.grefs().len() == 5,
        "{} grefs",
        granted.grefs().len()
    );
    ensure!(granted.pages() == 5, "{} pages", granted.pages());
    let (mapping, again) = (granted.mmap()?, granted.mmap()?);
    ensure!(mapping.len() == 5 * PAGE_SIZE, "{} bytes", mapping.len());
    for at in 0..mapping.len() {
        ensure!(byte(&mapping, at)? == 0, "byte {at} of new pages is not 0");
    }
    for page in pages(&mapping) {
        set_byte(&mapping, page * PAGE_SIZE, mark(page, 100))?;
    }
    tell_grefs(half, "grefs", granted.grefs())?;
    half.hear("written")?;
    for page in pages(&mapping) {
        let value = byte(&again, (page + 1) * PAGE_SIZE - 1)?;
        ensure!(value == mark(page, 7), "page {page} has {value}");
    }
    half.tell("read", "")?;
    half.hear("unmapped")?;
    Ok(())
}

fn join(half: &Half) -> Outcome {
    let grefs = hear_grefs(half, "grefs")?;
    let map = half
        .platform()
        .map(half.peer(), &grefs, Access::ReadWrite)?;
    ensure!(map.pages() == 5, "{} pages", map.pages());
    let mapping = map.mmap()?;
    ensure_fails!(map.mmap(), Error::Invalid(_), "mapping a batch twice");
    for page in pages(&mapping) {
        let value = byte(&mapping, page * PAGE_SIZE)?;
        ensure!(value == mark(page, 100), "page {page} has {value}");
        set_byte(&mapping, (page + 1) * PAGE_SIZE - 1, mark(page, 7))?;
    }
    half.tell("written", "")?;
    half.hear("read")?;
    drop((mapping, map));
    half.tell("unmapped", "")
}

fn scatter(half: &Half) -> Outcome {
    let (a, b) = (
        half.platform().grant(half.peer(), 3, Access::ReadWrite)?,
        half.platform().grant(half.peer(), 2, Access::ReadWrite)?,
    );
    let (in_a, in_b) = (a.mmap()?, b.mmap()?);
    let mut grefs = Vec::new();
    for (number, (granted, mapping, page)) in [
        (&b, &in_b, 1),
        (&a, &in_a, 2),
        (&a, &in_a, 0),
        (&b, &in_b, 0),
        (&a, &in_a, 1),
    ]
    .into_iter()
    .enumerate()
    {
        grefs.push(granted.grefs()[page]);
        set_byte(mapping, page * PAGE_SIZE, number as u8 + 1)?;
    }
    tell_grefs(half, "grefs", &grefs)?;
    half.hear("unmapped")?;
    Ok(())
}

fn gather(half: &Half) -> Outcome {
    let grefs = hear_grefs(half, "grefs")?;
    let mapped = map(half, &grefs, Access::ReadWrite)?;
    for page in pages(&mapped.0) {
        let value = byte(&mapped.0, page * PAGE_SIZE)?;
        ensure!(usize::from(value) == page + 1, "page {page} has {value}");
    }
    drop(mapped);
    half.tell("unmapped", "")
}

fn show(half: &Half) -> Outcome {
    let granted = half.platform().grant(half.peer(), 2, Access::ReadOnly)?;
    let mapping = granted.mmap()?;
    set_byte(&mapping, PAGE_SIZE, 42)?;
    tell_grefs(half, "grefs", granted.grefs())?;
    half.hear("mapped")?;
    set_byte(&mapping, PAGE_SIZE, 43)?;
    half.tell("changed", "")?;
    half.hear("unmapped")?;
    Ok(())
}

fn peek(half: &Half) -> Outcome {
    let grefs = hear_grefs(half, "grefs")?;
    ensure_fails!(
        map(half, &grefs, Access::ReadWrite),
        Error::NotGranted { .. },
        "mapping pages for writing that are granted for reading"
    );
    let for_reading = half.platform().map(half.peer(), &grefs, Access::ReadOnly)?;
    ensure_fails!(
        Mapping::from_extents(for_reading.extents(), Access::ReadWrite),
        Error::NotGranted { .. },
        "mapping an extent for writing that is for reading"
    );
    drop(for_reading);
    let mapped = map(half, &grefs, Access::ReadOnly)?;
    ensure!(byte(&mapped.0, PAGE_SIZE)? == 42, "what was written before");
    ensure_fails!(
        mapped.1.set_unmap_notify(0, None),
        Error::Invalid(_),
        "clearing a byte of pages held for reading"
    );
    half.tell("mapped", "")?;
    half.hear("changed")?;
    ensure!(byte(&mapped.0, PAGE_SIZE)? == 43, "what was written after");
    drop(mapped);
    half.tell("unmapped", "")
}

fn withhold(half: &Half) -> Outcome {
    let for_another = half.platform().grant(NOBODY, 1, Access::ReadWrite)?;
    let taken_back = half.platform().grant(half.peer(), 1, Access::ReadWrite)?;
    tell_grefs(half, "for-another", for_another.grefs())?;
    tell_grefs(half, "to-be-taken-back", taken_back.grefs())?;
    half.hear("unmapped")?;
    drop(taken_back);
    half.tell("taken-back", "")?;
    half.hear("tried")?;
    Ok(())
}

fn try_all(half: &Half) -> Outcome {
    let refused = |grefs: &[Gref], what: &str| -> Outcome {
        for access in [Access::ReadOnly, Access::ReadWrite] {
            ensure_fails!(
                map(half, grefs, access),
                Error::NotGranted { .. },
                "mapping {what} for {access}"
            );
        }
        Ok(())
    };
    refused(&[Gref(30_000)], "a page that nobody granted")?;
    refused(&[Gref(u32::MAX)], "a page beyond any grant table")?;
    let for_another = hear_grefs(half, "for-another")?;
    refused(&for_another, "a page that is granted to another domain")?;
    let grefs = hear_grefs(half, "to-be-taken-back")?;
    drop(map(half, &grefs, Access::ReadWrite)?);
    half.tell("unmapped", "")?;
    half.hear("taken-back")?;
    refused(&grefs, "a page that was taken back")?;
    half.tell("tried", "")
}

fn grant_some(half: &Half) -> Outcome {
    let granted = half.platform().grant(half.peer(), 4, Access::ReadWrite)?;
    let mapping = granted.mmap()?;
    set_byte(&mapping, 0, 1)?;
    tell_grefs(half, "grefs", granted.grefs())?;
    half.hear("mapped")?;
    ensure!(
        byte(&mapping, 0)? == 2,
        "the page mapped at last is another"
    );
    drop((mapping, granted));
    half.tell("taken-back", "")
}

fn want_more(half: &Half) -> Outcome {
    let good = hear_grefs(half, "grefs")?;
    for bad_at in [0, 2, good.len()] {
        let mut grefs = good.clone();
        grefs.insert(bad_at, Gref(30_000));
        ensure_fails!(
            map(half, &grefs, Access::ReadWrite),
            Error::NotGranted { .. },
            "a batch whose page {bad_at} is not granted"
        );
    }
    let mapped = map(half, &good, Access::ReadWrite)?;
    ensure!(byte(&mapped.0, 0)? == 1, "not the page that was granted");
    set_byte(&mapped.0, 0, 2)?;
    drop(mapped);
    half.tell("mapped", "")?;
    half.hear("taken-back")?;
    Ok(())
}

/// Grants all it may, is refused, and may again when it has taken some back.
fn exhaust(half: &Half) -> Outcome {
    let grant = |pages| half.platform().grant(half.peer(), pages, Access::ReadWrite);
    let limit = match grant(100_000) {
        Err(Error::LimitReached { limit, .. }) => limit.ok_or("the limit is not told")?,
        Err(error) => return Err(format!("granting 100000 pages: {error:?}").into()),
        Ok(_) => return Err("100000 pages were granted: is the limit raised?".into()),
    };
    // Where it was raised, using it up takes more memory than a small guest has.
    if limit > 4096 {
        return Ok(());
    }
    let mut all = Vec::new();
    let refused = loop {
        ensure!(
            all.len() < 4096,
            "{} grants within {limit} pages",
            all.len()
        );
        match grant(64) {
            Ok(granted) => all.push(granted),
            Err(error) => break error,
        }
    };
    let Error::LimitReached { limit: told, .. } = refused else {
        return Err(format!("at the limit: {refused:?}").into());
    };
    ensure!(told == Some(limit), "another limit: {told:?}");
    all.pop().ok_or("not one grant within the limit")?;
    all.push(grant(64)?);
    drop(all);
    drop(grant(limit / 2)?);
    Ok(())
}

/// Grants pages, and expects its peer to go away.
fn lend(half: &Half) -> Outcome {
    let event = half.offer()?;
    let granted = half.platform().grant(half.peer(), 2, Access::ReadWrite)?;
    let mapping = granted.mmap()?;
    for at in [10, PAGE_SIZE + 5] {
        set_byte(&mapping, at, 77)?;
    }
    tell_grefs(half, "grefs", granted.grefs())?;
    half.hear("mapped")?;
    ensure!(byte(&mapping, PAGE_SIZE + 5)? == 77, "cleared too early");
    quieten(&event)?;
    half.tell("go", "")?;
    await_signal(&event)?;
    await_byte(&mapping, PAGE_SIZE + 5, 0)?;
    ensure!(
        byte(&mapping, 10)? == 77,
        "a byte was cleared that was replaced"
    );
    half.hear("gone")?;
    Ok(())
}

fn give_back(half: &Half) -> Outcome {
    let grefs = hear_grefs(half, "grefs")?;
    let event = half.bind()?;
    let map = half
        .platform()
        .map(half.peer(), &grefs, Access::ReadWrite)?;
    let len = grefs.len() * PAGE_SIZE;
    ensure_fails!(
        map.set_unmap_notify(len, None),
        Error::Invalid(_),
        "a byte past the end"
    );
    map.set_unmap_notify(10, None)?;
    map.set_unmap_notify(PAGE_SIZE + 5, Some(&event))?;
    let mapping = map.mmap()?;
    half.tell("mapped", "")?;
    half.hear("go")?;
    drop((mapping, map));
    half.tell("gone", "")
}

fn die_mapping(half: &Half) -> Outcome {
    let grefs = hear_grefs(half, "grefs")?;
    let order = Order::Map {
        port: half.offered()?,
        grefs,
        offset: PAGE_SIZE + 5,
    };
    let process = Process::start(half, order, &[])?;
    process.answer()?;
    half.tell("mapped", "")?;
    half.hear("go")?;
    process.kill()?;
    half.tell("gone", "")
}

fn take_back(half: &Half) -> Outcome {
    let event = half.bind()?;
    let granted = half.platform().grant(half.peer(), 2, Access::ReadWrite)?;
    let mapping = granted.mmap()?;
    granted.set_unmap_notify(10, None)?;
    granted.set_unmap_notify(PAGE_SIZE + 5, Some(&event))?;
    tell_grefs(half, "grefs", granted.grefs())?;
    half.hear("mapped")?;
    drop((mapping, granted));
    half.tell("gone", "")
}

fn die_granting(half: &Half) -> Outcome {
    let order = Order::Grant {
        port: half.offered()?,
        pages: 2,
        offset: PAGE_SIZE + 5,
    };
    let process = Process::start(half, order, &[])?;
    tell_grefs(half, "grefs", &process.answer()?)?;
    half.hear("mapped")?;
    process.kill()?;
    half.tell("gone", "")
}

/// Maps pages, and expects its peer to go away.
fn be_left(half: &Half) -> Outcome {
    let event = half.offer()?;
    let grefs = hear_grefs(half, "grefs")?;
    let mapped = map(half, &grefs, Access::ReadWrite)?;
    for at in [10, PAGE_SIZE + 5] {
        set_byte(&mapped.0, at, 77)?;
    }
    quieten(&event)?;
    half.tell("mapped", "")?;
    await_signal(&event)?;
    await_byte(&mapped.0, PAGE_SIZE + 5, 0)?;
    ensure!(
        byte(&mapped.0, 10)? == 77,
        "a byte was cleared that was replaced"
    );
    half.hear("gone")?;
    // The memory stays for as long as it is mapped.
    set_byte(&mapped.0, 0, 1)?;
    ensure!(byte(&mapped.0, 0)? == 1, "the memory is gone");
    Ok(())
}

/// What the domain does whose peer has handed its part to another process.
fn work_with_process(half: &Half, mapping: &Mapping) -> Outcome {
    let event = half.offer()?;
    await_byte(mapping, mapping.len() - 1, 2)?;
    await_signal(&event)?;
    set_byte(mapping, 0, 3)?;
    event.notify()?;
    half.hear("done")?;
    Ok(())
}

fn hand_granted(half: &Half) -> Outcome {
    let granted = half.platform().grant(half.peer(), 3, Access::ReadWrite)?;
    let mapping = granted.mmap()?;
    set_byte(&mapping, 0, 1)?;
    tell_grefs(half, "grefs", granted.grefs())?;
    let event = half.bind()?;
    let process = Process::with(half, granted.extents(), &event)?;
    // It is the process's from here on: were we to hold it, we might take its signals.
    drop(event);
    process.answer()?;
    process.kill()?;
    half.tell("done", "")?;
    half.hear("unmapped")?;
    Ok(())
}

fn join_process(half: &Half) -> Outcome {
    let grefs = hear_grefs(half, "grefs")?;
    let mapped = map(half, &grefs, Access::ReadWrite)?;
    work_with_process(half, &mapped.0)?;
    drop(mapped);
    half.tell("unmapped", "")
}

fn share_with_process(half: &Half) -> Outcome {
    let granted = half.platform().grant(half.peer(), 3, Access::ReadWrite)?;
    let mapping = granted.mmap()?;
    set_byte(&mapping, 0, 1)?;
    tell_grefs(half, "grefs", granted.grefs())?;
    work_with_process(half, &mapping)
}

fn hand_mapped(half: &Half) -> Outcome {
    let grefs = hear_grefs(half, "grefs")?;
    let map = half
        .platform()
        .map(half.peer(), &grefs, Access::ReadWrite)?;
    let event = half.bind()?;
    let process = Process::with(half, map.extents(), &event)?;
    drop(event);
    process.answer()?;
    process.kill()?;
    drop(map);
    half.tell("done", "")
}

fn refuse_sizes(half: &Half) -> Outcome {
    ensure_fails!(
        half.platform().grant(half.peer(), 0, Access::ReadWrite),
        Error::Invalid(_),
        "granting no pages"
    );
    ensure_fails!(
        half.platform().map(half.peer(), &[], Access::ReadWrite),
        Error::Invalid(_),
        "mapping no pages"
    );
    let too_many: Vec<_> = (8..).take(64 * 1024 + 1).map(Gref).collect();
    ensure_fails!(
        half.platform()
            .map(half.peer(), &too_many, Access::ReadOnly),
        Error::LimitReached { .. },
        "mapping more pages at once than the system maps"
    );
    Ok(())
}
