use tdx_host::page::ReturnedPage;

/// The module has returned the page; its lines are as private as before.
fn free_before_reset(page: ReturnedPage<'_>) {
    let _ = page.release();
}

fn main() {}
