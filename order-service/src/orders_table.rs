//! The read table of orders, for lists.

use std::time::SystemTime;

use oncelog::{
    aggregate::{Loaded, ReadTable},
    edge::Page,
    event::StreamId,
    store::{Column, Query, ReadError, Row, Store, Table},
};

use crate::order::{Order, State};

/// The state, as the API names it, such as `PAID`.
const STATE: Column = Column::text("state");
/// The time at which the order was created.
const CREATE_TIME: Column = Column::time("create_time");
/// The customer, if one was given.
const CUSTOMER_ID: Column = Column::text("customer_id").optional();

/// One row for each order.
#[derive(Debug)]
pub struct OrdersTable;

impl ReadTable for OrdersTable {
    type Domain = Order;

    const TABLE: Option<&'static Table> = Some(&Table {
        name: "orders",
        version: 3,
        key: "order_id",
        columns: &[STATE, CREATE_TIME, CUSTOMER_ID],
        indexes: &[
            &[CREATE_TIME],
            &[STATE, CREATE_TIME],
            &[CUSTOMER_ID, CREATE_TIME],
            &[CUSTOMER_ID, STATE, CREATE_TIME],
        ],
    });

    fn row(order: &Loaded<Order>) -> Option<Row> {
        let Order::Known { details, state } = &order.state else { return None };
        let customer = Some(details.customer_id.clone()).filter(|customer| !customer.is_empty());
        Some(Row::new([name(state).into(), order.create_time.into(), customer.into()]))
    }
}

fn name(state: &State) -> &'static str {
    match state {
        State::Created => "CREATED",
        State::Paid { .. } => "PAID",
        State::PaymentFailed(_) => "PAYMENT_FAILED",
        State::Cancelling => "CANCELLING",
        State::Cancelled => "CANCELLED",
        State::Refunded { .. } => "REFUNDED",
    }
}

/// Selects orders. All conditions that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// The state, as in the table.
    pub(crate) state: Option<&'static str>,
    pub(crate) customer_id: Option<String>,
    pub(crate) created_from: Option<SystemTime>,
    pub(crate) created_until: Option<SystemTime>,
}

impl Filter {
    /// The query for a page of orders, from the newest to the oldest. Each combination of conditions has an index.
    pub(crate) fn page(self, page: &Page) -> Query {
        let mut query = page.query(CREATE_TIME);
        if let Some(state) = self.state {
            query = query.equal(STATE, state);
        }
        if let Some(customer_id) = self.customer_id {
            query = query.equal(CUSTOMER_ID, customer_id);
        }
        if let Some(time) = self.created_from {
            query = query.from(CREATE_TIME, time);
        }
        if let Some(time) = self.created_until {
            query = query.before(time);
        }
        query
    }
}

/// Returns the orders whose payment is not finished.
pub fn unfinished(store: &Store) -> Result<Vec<StreamId>, ReadError> {
    let mut orders = Vec::new();
    for state in ["CREATED", "CANCELLING"] {
        orders.extend(store.rows_blocking(&Query::all().equal(STATE, state))?);
    }
    Ok(orders.into_iter().map(|row| row.stream).collect())
}
