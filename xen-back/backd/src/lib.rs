//! The backend domain's daemon: XenBus backend, device admission, one worker per guest process.
