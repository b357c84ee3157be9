//! Amounts of money, as whole numbers of a currency's minor unit, never as floats.

use std::fmt;

use iso_currency::Currency;

/// The largest amount of one order.
pub const MAX_AMOUNT: i64 = 1_000_000_000_000;

/// An amount of money that can be ordered and paid: 1 to [`MAX_AMOUNT`], in a currency of ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    amount: i64,
    currency: Currency,
}

impl Money {
    /// Creates an amount in the currency's minor unit: 500 is USD 5.00.
    ///
    /// Returns all errors: at most one for `amount` and one for `currency_code`.
    pub fn new(amount: i64, currency_code: &str) -> Result<Self, Vec<MoneyError>> {
        let mut errors = Vec::new();
        if amount < 1 {
            errors.push(MoneyError::TooSmall);
        } else if amount > MAX_AMOUNT {
            errors.push(MoneyError::TooLarge);
        }
        match Currency::from_code(currency_code) {
            Some(currency) if errors.is_empty() => return Ok(Self { amount, currency }),
            Some(_) => {}
            None => errors.push(MoneyError::UnknownCurrency),
        }
        Err(errors)
    }

    /// Returns the amount in the currency's minor unit.
    pub fn amount(self) -> i64 {
        self.amount
    }

    /// Returns the ISO 4217 code of the currency: three capital letters.
    pub fn currency_code(self) -> &'static str {
        self.currency.code()
    }
}

/// Formats the amount for people: `USD 5.00`, `JPY 500`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.currency.exponent().unwrap_or(0);
        let unit = 10_i64.pow(digits.into());
        write!(f, "{} {}", self.currency_code(), self.amount / unit)?;
        if digits > 0 {
            write!(f, ".{:0width$}", self.amount % unit, width = digits.into())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The reason for which a value is not a valid amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Zero or negative.
    #[error("must be at least 1, in the currency's minor unit (500 is USD 5.00)")]
    TooSmall,
    /// Above [`MAX_AMOUNT`].
    #[error("must be at most 1000000000000")]
    TooLarge,
    /// Not a code of ISO 4217.
    #[error("must be an ISO 4217 code such as \"USD\"")]
    UnknownCurrency,
}

impl MoneyError {
    /// Returns the name of the wrong field in the contracts.
    pub fn field(self) -> &'static str {
        match self {
            Self::TooSmall | Self::TooLarge => "amount",
            Self::UnknownCurrency => "currency_code",
        }
    }
}

/// Lists errors with their fields: `amount must be at least 1…; currency_code must be…`.
pub(crate) fn in_words(errors: &[MoneyError]) -> String {
    let errors: Vec<_> = errors.iter().map(|error| format!("{} {error}", error.field())).collect();
    errors.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_inclusive() {
        assert!(Money::new(1, "USD").is_ok());
        assert!(Money::new(MAX_AMOUNT, "JPY").is_ok());
        assert_eq!(Money::new(0, "USD"), Err(vec![MoneyError::TooSmall]));
        assert_eq!(Money::new(MAX_AMOUNT + 1, "USD"), Err(vec![MoneyError::TooLarge]));
        assert_eq!(Money::new(-5, "usd"), Err(vec![MoneyError::TooSmall, MoneyError::UnknownCurrency]));
        assert_eq!(Money::new(5, ""), Err(vec![MoneyError::UnknownCurrency]));
    }

    #[test]
    fn a_person_reads_the_major_unit() {
        for (amount, code, text) in
            [(500, "USD", "USD 5.00"), (7, "EUR", "EUR 0.07"), (500, "JPY", "JPY 500"), (1234, "KWD", "KWD 1.234")]
        {
            assert_eq!(Money::new(amount, code).expect("valid").to_string(), text);
        }
    }
}
