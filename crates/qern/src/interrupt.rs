//! Ctrl-C (and termination): the one handler of the process. By default it ends the program with status 130; while a
//! [`Listener`] lives, it only raises a flag that the listener's owner polls. Not a way to cancel work: owners decide.

use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static INSTALL: Once = Once::new();
static LISTENERS: AtomicUsize = AtomicUsize::new(0);
static RAISED: AtomicBool = AtomicBool::new(false);

/// While this lives, Ctrl-C raises a flag and does not end the program. A second Ctrl-C before the flag was taken does.
pub struct Listener(());

/// Starts listening for Ctrl-C.
pub fn listen() -> Listener {
    INSTALL.call_once(|| {
        // Fails only where the platform has no such signal; then Ctrl-C keeps its default meaning.
        let _ = ctrlc::set_handler(|| {
            let unanswered = RAISED.swap(true, Ordering::SeqCst);
            if LISTENERS.load(Ordering::SeqCst) == 0 || unanswered {
                process::exit(i32::from(crate::exit::INTERRUPTED));
            }
        });
    });
    if LISTENERS.fetch_add(1, Ordering::SeqCst) == 0 {
        RAISED.store(false, Ordering::SeqCst);
    }
    Listener(())
}

impl Listener {
    /// Whether Ctrl-C was pressed since the last [`Listener::take`].
    pub fn raised(&self) -> bool {
        RAISED.load(Ordering::SeqCst)
    }

    /// Whether Ctrl-C was pressed, lowering the flag.
    pub fn take(&self) -> bool {
        RAISED.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENERS.fetch_sub(1, Ordering::SeqCst);
    }
}
