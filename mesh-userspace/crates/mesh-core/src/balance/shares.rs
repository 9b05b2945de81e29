//! Smooth weighted round robin: over any stretch of connections each backend gets its share to within about one
//! connection, in an even mix rather than in runs.
//!
//! Each backend has a credit. A connection adds to every credit the backend's weight, goes to the greatest, and takes the
//! sum of the weights from it. With two backends no stretch, wherever it begins, is off by a whole connection; so the
//! sum over several workers, each with its own credits, stays close too.

use std::collections::HashMap;

use crate::route::{RoutedBackend, ServiceRoute};
use crate::workload::Name;

use super::{Now, below};

/// The state of every rule that splits.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// By dialled service, so that a lookup borrows the name.
    services: HashMap<Name, Vec<RuleShares>, foldhash::fast::RandomState>,
}

/// The credits of one rule on one port.
#[derive(Debug)]
struct RuleShares {
    port: u16,
    /// Route, and name of the rule in it.
    rule: Option<(Name, String)>,
    credits: Vec<Credit>,
    used: Now,
}

#[derive(Debug)]
struct Credit {
    backend: String,
    weight: u32,
    /// Within ± the sum of the weights.
    credit: i64,
}

/// How far into its cycle a fresh state may start. Bounds the work; longer cycles differ only in their far tail.
const LONGEST_START: u64 = 4096;

/// Rules of one service whose state is kept. A service has few; more is the sign that rules come and go.
const RULES_PER_SERVICE: usize = 64;

impl Shares {
    /// The position of the backend whose turn it is among the eligible ones.
    pub(super) fn next(
        &mut self,
        route: &ServiceRoute,
        eligible: impl Fn(&RoutedBackend) -> bool,
        now: Now,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<usize> {
        if let [only] = route.backends.as_ref() {
            return eligible(only).then_some(0);
        }
        let shares = self.of(route, random)?;
        shares.used = now;
        shares.follow(&route.backends);
        shares.turn(|index| route.backends.get(index).is_some_and(&eligible))
    }

    /// Drops the state of services that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&Name) -> bool) {
        self.services.retain(|service, _| keep(service));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.services.values().map(Vec::len).sum()
    }

    fn of(
        &mut self,
        route: &ServiceRoute,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<&mut RuleShares> {
        // Two lookups instead of `entry`, which would clone the name for every connection.
        let service = &route.service.name;
        if !self.services.contains_key(service) {
            self.services.insert(service.clone(), Vec::with_capacity(1));
        }
        let rules = self.services.get_mut(service)?;
        let position = rules.iter().position(|shares| shares.is_for(route));
        let position = position.unwrap_or_else(|| {
            if rules.len() >= RULES_PER_SERVICE
                && let Some((oldest, _)) = rules
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, shares)| shares.used)
            {
                rules.swap_remove(oldest);
            }
            rules.push(RuleShares::new(route, random()));
            rules.len() - 1
        });
        rules.get_mut(position)
    }
}

impl RuleShares {
    /// A fresh state starts at a random place of its cycle. Otherwise the first connection of every worker would go to
    /// the heaviest backend, and with many workers and few connections the light ones would never see any.
    fn new(route: &ServiceRoute, random: u64) -> Self {
        let mut shares = Self {
            port: route.port.port,
            rule: identity(route).map(|(route, rule)| (route.clone(), rule.to_owned())),
            credits: Vec::new(),
            used: Now::ZERO,
        };
        shares.follow(&route.backends);
        let divisor = shares.credits.iter().fold(0, |divisor, credit| {
            greatest_common_divisor(divisor, credit.weight)
        });
        let cycle = shares.sum_of_weights() / i64::from(divisor.max(1));
        let cycle = u64::try_from(cycle).unwrap_or(1).clamp(1, LONGEST_START);
        for _ in 0..below(random, cycle) {
            shares.turn(|_| true);
        }
        shares
    }

    fn is_for(&self, route: &ServiceRoute) -> bool {
        let own = self
            .rule
            .as_ref()
            .map(|(route, rule)| (route, rule.as_str()));
        self.port == route.port.port && own == identity(route)
    }

    /// Takes over the backends and weights of the rule as they are now. Credits are kept as parts of a connection, so
    /// that however often weights change, each backend still gets what it was owed.
    fn follow(&mut self, backends: &[RoutedBackend]) {
        let same = self.credits.len() == backends.len()
            && self.credits.iter().zip(backends).all(|(credit, backend)| {
                credit.weight == backend.weight && credit.backend == backend.name
            });
        if same {
            return;
        }
        let before = i128::from(self.sum_of_weights());
        let after: i128 = backends
            .iter()
            .map(|backend| i128::from(backend.weight))
            .sum();
        self.credits = backends
            .iter()
            .map(|backend| {
                let owed = self
                    .credits
                    .iter()
                    .find(|credit| credit.backend == backend.name)
                    .map_or(0, |credit| i128::from(credit.credit));
                let scaled = if before == 0 {
                    0
                } else {
                    owed * after / before
                };
                Credit {
                    backend: backend.name.clone(),
                    weight: backend.weight,
                    credit: i64::try_from(scaled.clamp(-after, after)).unwrap_or(0),
                }
            })
            .collect();
    }

    /// Gives the turn to one of the eligible backends. The others neither gain nor lose, so that a backend that was away
    /// comes back to its share, not to a burst.
    fn turn(&mut self, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let mut sum = 0;
        let mut next: Option<(usize, i64)> = None;
        for (index, credit) in self.credits.iter_mut().enumerate() {
            if !eligible(index) {
                continue;
            }
            credit.credit += i64::from(credit.weight);
            sum += i64::from(credit.weight);
            if next.is_none_or(|(_, greatest)| credit.credit > greatest) {
                next = Some((index, credit.credit));
            }
        }
        let (index, _) = next?;
        self.credits.get_mut(index)?.credit -= sum;
        Some(index)
    }

    fn sum_of_weights(&self) -> i64 {
        self.credits
            .iter()
            .map(|credit| i64::from(credit.weight))
            .sum()
    }
}

/// What a rule is known by across worlds: its route and its own name, not its position.
fn identity(route: &ServiceRoute) -> Option<(&Name, &str)> {
    let (parent, _) = route.rule.as_ref()?;
    Some((&parent.name, route.rule()?.name.as_str()))
}

fn greatest_common_divisor(left: u32, right: u32) -> u32 {
    if right == 0 {
        left
    } else {
        greatest_common_divisor(right, left % right)
    }
}
