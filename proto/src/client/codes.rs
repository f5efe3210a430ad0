//! Error, disconnect and unsubscribe codes with their texts (client protocol §7).
//!
//! **Runs on: any.**

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident, $text:ident { $($variant:ident = $code:literal $reason:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $(#[doc = $reason] $variant = $code,)+ }
        impl $name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The number on the wire.
            pub fn code(self) -> u16 {
                self as u16
            }
            /// The text on the wire.
            pub fn $text(self) -> &'static str {
                match self { $(Self::$variant => $reason,)+ }
            }
        }
    };
}

codes! {
    /// Why a command was refused; the connection goes on.
    ErrorCode, message {
        Internal = 100 "internal server error",
        Unauthorized = 101 "unauthorized",
        UnknownChannel = 102 "unknown channel",
        PermissionDenied = 103 "permission denied",
        MethodNotFound = 104 "method not found",
        AlreadySubscribed = 105 "already subscribed",
        LimitExceeded = 106 "limit exceeded",
        BadRequest = 107 "bad request",
        NotAvailable = 108 "not available",
        TokenExpired = 109 "token expired",
        Expired = 110 "expired",
        TooManyRequests = 111 "too many requests",
        UnrecoverablePosition = 112 "unrecoverable position",
        ConcurrentPagination = 113 "concurrent pagination",
    }
}

impl ErrorCode {
    /// Whether the client should try again.
    pub fn temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests | Self::ConcurrentPagination)
    }
}

codes! {
    /// Why a connection was ended; the WebSocket close code and reason.
    Disconnect, reason {
        Shutdown = 3001 "shutdown",
        InternalServerError = 3004 "internal server error",
        Expired = 3005 "connection expired",
        SubscriptionExpired = 3006 "subscription expired",
        Slow = 3008 "slow",
        WriteError = 3009 "write error",
        InsufficientState = 3010 "insufficient state",
        ForceReconnect = 3011 "force reconnect",
        NoPong = 3012 "no pong",
        TooManyRequests = 3013 "too many requests",
        StateInvalidated = 3014 "state invalidated",
        InvalidToken = 3500 "invalid token",
        BadRequest = 3501 "bad request",
        Stale = 3502 "stale",
        ForceDisconnect = 3503 "force disconnect",
        ConnectionLimit = 3504 "connection limit",
        ChannelLimit = 3505 "channel limit",
        InappropriateProtocol = 3506 "inappropriate protocol",
        PermissionDenied = 3507 "permission denied",
        NotAvailable = 3508 "not available",
        TooManyErrors = 3509 "too many errors",
    }
}

impl Disconnect {
    /// Whether the client comes back by itself.
    pub fn reconnects(self) -> bool {
        self.code() < 3500
    }
}

codes! {
    /// Why the server ended a subscription.
    UnsubscribeCode, reason {
        Server = 2000 "server unsubscribe",
        InsufficientState = 2500 "insufficient state",
        Expired = 2501 "subscription expired",
        StateInvalidated = 2502 "state invalidated",
    }
}
