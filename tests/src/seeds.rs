//! Which random worlds a test tries.
//!
//! | variable | is |
//! |---|---|
//! | `PORTCULLIS_WORLDS` | how many worlds each test tries |
//! | `PORTCULLIS_SEED` | the first seed, so that a failure can be seen again with one world |
//! | `PORTCULLIS_LONG` | `1`: more worlds |

use std::env;
use std::ops::Range;

/// As many seeds as asked for, printed so that a run can be repeated.
#[must_use]
pub fn seeds(usual: u64, in_long: u64) -> Range<u64> {
    let number = |name: &str| {
        env::var(name).ok().map(|text| {
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name}={text} is no number"))
        })
    };
    let long = env::var("PORTCULLIS_LONG").is_ok_and(|value| value == "1");
    let count = number("PORTCULLIS_WORLDS").unwrap_or(if long { in_long } else { usual });
    let first = number("PORTCULLIS_SEED").unwrap_or(1);
    println!("seeds {first} to {}", first + count - 1);
    first..first + count
}
