//! Settings → checked chart: every fault with its key, none of them guessed away.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    config::{
        Attribute, Bound, ChartConfig, ChartKind, ConfigError, Estimator, Half, Known, LimitSource, Nominal, Size, Spec, Subgroup,
        Variance,
    },
    constants::SUBGROUP_ROWS_MAX,
    multivariate::Ellipsoid,
    rules::{Rule, RuleMask},
    settings::{ChartSettings, LimitSettings, Numbers, SizeSettings, SpecSettings, SubgroupSettings},
};

/// Baseline points that a chart may hold on to, a key.
const BASELINE_POINTS_MAX: u64 = 10_000;
/// Rows of one subgroup by count.
const SUBGROUP_SIZE_MAX: u64 = 1000;
/// Signals of a multivariate chart.
const SIGNALS_MAX: usize = 32;
/// The types a chart can have.
const TYPES: &str = "i_mr xbar_r xbar_s ewma cusum p np c u laney_p laney_u moving_average short_run t2 mewma ewma_residual";

struct Checker<'a> {
    settings: &'a ChartSettings,
    faults: Vec<ConfigError>,
}

pub(super) fn check(settings: &ChartSettings) -> Result<ChartConfig, Vec<ConfigError>> {
    let mut checker = Checker { settings, faults: Vec::new() };
    let config = checker.config();
    match config {
        Some(config) if checker.faults.is_empty() => Ok(config),
        _ => Err(checker.faults),
    }
}

impl Checker<'_> {
    fn fault(&mut self, key: &str, message: impl Into<String>) {
        self.faults.push(ConfigError { chart: self.settings.id.clone(), key: key.to_owned(), message: message.into() });
    }

    fn config(&mut self) -> Option<ChartConfig> {
        let settings = self.settings;
        if settings.id.is_empty() {
            self.fault("id", "a chart needs a name");
        }
        let conventions = settings.conventions.check().unwrap_or_else(|(key, message)| {
            self.fault(key, message);
            super::config::Conventions::default()
        });
        let kind = self.kind()?;
        let signals = self.signals(&kind);
        let subgroup = self.subgroup(&kind);
        let limits = self.limits(&kind, &subgroup, signals.len());
        let mut config = ChartConfig {
            id: settings.id.as_str().into(),
            signals,
            limits,
            estimator: Estimator::Range,
            width: self.width(&kind),
            rules: RuleMask::NONE,
            spread_rules: RuleMask::NONE,
            conventions,
            spec: None,
            group_by: settings.group_by.iter().map(|tag| tag.as_str().into()).collect(),
            kind,
            subgroup,
        };
        config.estimator = self.estimator(&config);
        self.rules(&mut config);
        config.spec = self.spec(&config);
        self.foreign_keys(&config.kind);
        Some(config)
    }

    /// `value`, or `default`, if it is inside `range`.
    fn number(&mut self, key: &str, value: Option<f64>, default: f64, [low, high]: [f64; 2], words: &str) -> f64 {
        match value {
            None => default,
            Some(value) if value.is_finite() && value >= low && value <= high => value,
            Some(value) => {
                self.fault(key, format!("{value} is out of range: {words}"));
                default
            }
        }
    }

    fn kind(&mut self) -> Option<ChartKind> {
        let settings = self.settings;
        let attribute = |attribute| Some(attribute);
        let found = match settings.kind.as_str() {
            "p" => attribute(Attribute::P),
            "np" => attribute(Attribute::Np),
            "c" => attribute(Attribute::C),
            "u" => attribute(Attribute::U),
            "laney_p" => attribute(Attribute::LaneyP),
            "laney_u" => attribute(Attribute::LaneyU),
            _ => None,
        };
        if let Some(attribute) = found {
            return Some(ChartKind::Attribute { attribute, size: self.size(attribute) });
        }
        Some(match settings.kind.as_str() {
            "i_mr" => ChartKind::Individuals,
            "xbar_r" => ChartKind::XbarR,
            "xbar_s" => ChartKind::XbarS,
            "ewma" => ChartKind::Ewma { lambda: self.lambda(0.2), variance: self.variance(Variance::Exact) },
            "cusum" => self.cusum(),
            "moving_average" => {
                let span = settings.span.unwrap_or(5);
                if !(2..=100).contains(&span) {
                    self.fault("span", format!("{span} is out of range: a moving average takes 2 to 100 points"));
                }
                ChartKind::MovingAverage { span: span.clamp(2, 100) as usize }
            }
            "short_run" => self.short_run(),
            "t2" => ChartKind::T2 { bound: self.bound(0.0027) },
            "mewma" => ChartKind::Mewma {
                lambda: self.lambda(0.1),
                bound: self.bound(0.005),
                variance: self.variance(Variance::Asymptotic),
            },
            "ewma_residual" => {
                let lambda = settings.lambda.is_some().then(|| self.lambda(0.2));
                ChartKind::EwmaResidual { lambda }
            }
            other => {
                let message = if other.is_empty() { "missing".to_owned() } else { format!("`{other}` is no chart type") };
                self.fault("type", format!("{message}: one of {TYPES}"));
                return None;
            }
        })
    }

    fn lambda(&mut self, default: f64) -> f64 {
        self.number("lambda", self.settings.lambda, default, [1e-4, 1.0], "lambda is above 0 and at most 1")
    }

    fn variance(&mut self, default: Variance) -> Variance {
        match self.settings.variance.as_deref() {
            None => default,
            Some("exact") => Variance::Exact,
            Some("asymptotic") => Variance::Asymptotic,
            Some(other) => {
                self.fault("variance", format!("`{other}`: write `exact` or `asymptotic`"));
                default
            }
        }
    }

    fn cusum(&mut self) -> ChartKind {
        let settings = self.settings;
        let k = self.number("k", settings.k, 0.5, [0.0, 100.0], "k is 0 or more, in sigma (half the shift to detect)");
        let h = self.number("h", settings.h, 5.0, [1e-6, 1e6], "h is above 0, in sigma");
        let head_start = self.number(
            "head_start",
            settings.head_start,
            0.0,
            [0.0, h],
            "a head start is between 0 and h, in sigma (often h / 2)",
        );
        ChartKind::Cusum { k, h, head_start }
    }

    fn bound(&mut self, default: f64) -> Bound {
        match (self.settings.ucl, self.settings.alpha) {
            (Some(_), Some(_)) => {
                self.fault("ucl", "give either `alpha` or `ucl`");
                Bound::Alpha(default)
            }
            (Some(ucl), None) => Bound::Ucl(self.number("ucl", Some(ucl), 1.0, [1e-9, 1e9], "a limit of T² is above 0")),
            (None, alpha) => Bound::Alpha(self.number("alpha", alpha, default, [1e-6, 0.5], "alpha is between 0.000001 and 0.5")),
        }
    }

    fn size(&mut self, attribute: Attribute) -> Size {
        match &self.settings.size {
            None if attribute == Attribute::C => Size::Constant(1.0),
            None => {
                self.fault("size", "missing: how much was inspected behind each count, a number or the name of a signal");
                Size::Constant(1.0)
            }
            Some(SizeSettings::Number(n)) => {
                Size::Constant(self.number("size", Some(*n), 1.0, [f64::MIN_POSITIVE, 1e12], "a size is above 0"))
            }
            Some(SizeSettings::Signal(name)) => {
                if attribute == Attribute::C {
                    self.fault("size", "a c chart counts on equal areas: use type `u` where the size varies");
                }
                Size::Signal(name.as_str().into())
            }
        }
    }

    fn short_run(&mut self) -> ChartKind {
        let Some(nominal) = &self.settings.nominal else {
            self.fault("nominal", "missing: { by = \"part\", table = { A = { target = 10.0 } } }");
            return ChartKind::ShortRun { by: "".into(), table: BTreeMap::new() };
        };
        if nominal.by.is_empty() || nominal.table.is_empty() {
            self.fault("nominal", "needs `by`, the tag, and a `table` of nominal values by its text");
        }
        let scaled = nominal.table.values().filter(|entry| entry.sigma.is_some()).count();
        if scaled != 0 && scaled != nominal.table.len() {
            self.fault("nominal.table", "`sigma` for all entries (standardised) or for none (deviations)");
        }
        let mut table = BTreeMap::new();
        for (text, entry) in &nominal.table {
            let scale = entry.sigma.unwrap_or(1.0);
            if !entry.target.is_finite() || !scale.is_finite() || scale <= 0.0 {
                self.fault("nominal.table", format!("`{text}`: the target is a number and sigma is above 0"));
            }
            table.insert(text.as_str().into(), Nominal { target: entry.target, scale });
        }
        ChartKind::ShortRun { by: nominal.by.as_str().into(), table }
    }

    fn signals(&mut self, kind: &ChartKind) -> Vec<Arc<str>> {
        let settings = self.settings;
        let mut names: Vec<Arc<str>> = settings.signals.iter().map(|name| name.as_str().into()).collect();
        if let Some(name) = &settings.signal {
            if !names.is_empty() {
                self.fault("signal", "give either `signal` or `signals`");
            }
            names.insert(0, name.as_str().into());
        }
        let key = if kind.is_multivariate() { "signals" } else { "signal" };
        match (kind.is_multivariate(), names.len()) {
            (_, 0) => self.fault(key, "missing: what is charted"),
            (true, 1) => self.fault(key, "a multivariate chart needs at least two signals; for one, use i_mr or ewma"),
            (true, count) if count > SIGNALS_MAX => self.fault(key, format!("{count} signals: at most {SIGNALS_MAX}")),
            (false, count) if count > 1 => {
                self.fault(key, format!("{} charts one signal; for several, use t2 or mewma", settings.kind));
            }
            _ => {}
        }
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                self.fault(key, format!("`{name}` is named twice"));
            }
        }
        names
    }

    fn subgroup(&mut self, kind: &ChartKind) -> Subgroup {
        let paired = matches!(kind, ChartKind::XbarR | ChartKind::XbarS);
        let Some(settings) = &self.settings.subgroup else {
            return if paired { Subgroup::Size(5) } else { Subgroup::Row };
        };
        let subgroup = match settings {
            SubgroupSettings { size: Some(size), by: None, every: None } => self.subgroup_size(*size, paired, kind),
            SubgroupSettings { size: None, by: Some(by), every: None } if by == "layer" => Subgroup::Layer,
            SubgroupSettings { size: None, by: Some(by), every: None } => Subgroup::Tag(by.as_str().into()),
            SubgroupSettings { size: None, by: None, every: Some(text) } => {
                if let Some(ns) = duration_ns(text) {
                    Subgroup::Every(ns)
                } else {
                    self.fault("subgroup.every", format!("`{text}` is no duration: write \"250ms\", \"1s\", \"5m\""));
                    Subgroup::Every(1_000_000_000)
                }
            }
            _ => {
                self.fault("subgroup", "one of { size = 5 }, { by = \"layer\" }, { every = \"1s\" }");
                Subgroup::Size(5)
            }
        };
        if kind.is_multivariate() && subgroup != Subgroup::Row {
            self.fault("subgroup", "t2 and mewma chart single rows: leave `subgroup` out");
        }
        subgroup
    }

    fn subgroup_size(&mut self, size: u64, paired: bool, kind: &ChartKind) -> Subgroup {
        if paired && size < 2 {
            self.fault("subgroup.size", format!("{size} is too small: a subgroup has at least 2 rows; for single rows, use i_mr"));
        } else if size == 0 || size > SUBGROUP_SIZE_MAX {
            self.fault("subgroup.size", format!("{size} is out of range: 1 to {SUBGROUP_SIZE_MAX} rows"));
        } else if size > SUBGROUP_ROWS_MAX as u64 && matches!(kind, ChartKind::XbarR | ChartKind::ShortRun { .. }) {
            self.fault("subgroup.size", format!("a range of {size} rows says little: at most {SUBGROUP_ROWS_MAX}, or use xbar_s"));
        }
        if size <= 1 { Subgroup::Row } else { Subgroup::Size(size.min(SUBGROUP_SIZE_MAX) as usize) }
    }

    fn limits(&mut self, kind: &ChartKind, subgroup: &Subgroup, signals: usize) -> LimitSource {
        let empty = LimitSettings::default();
        let outer = self.settings.limits.as_ref().unwrap_or(&empty);
        let given = outer.fixed.as_deref().unwrap_or(outer);
        let fixed = given.center.is_some() || given.sigma.is_some() || given.covariance.is_some();
        let table = outer.by.is_some() || !outer.table.is_empty();
        if usize::from(outer.baseline.is_some()) + usize::from(fixed || outer.fixed.is_some()) + usize::from(table) > 1 {
            self.fault("limits", "one of { baseline = 25 }, { center = …, sigma = … }, { by = \"recipe\", table = { … } }");
        }
        if table {
            self.limit_table(outer, kind)
        } else if fixed || outer.fixed.is_some() {
            self.fixed(given, kind, signals)
        } else {
            self.baseline(outer.baseline.unwrap_or(25), kind, subgroup, signals)
        }
    }

    fn baseline(&mut self, points: u64, kind: &ChartKind, subgroup: &Subgroup, signals: usize) -> LimitSource {
        // F needs more rows than signals, the beta law of Phase I one more.
        let least = match kind {
            _ if kind.is_multivariate() => signals as u64 + 2,
            ChartKind::EwmaResidual { .. } => 10,
            _ if *subgroup == Subgroup::Row => 3,
            _ => 2,
        };
        if points < least || points > BASELINE_POINTS_MAX {
            let message =
                format!("{points} is out of range: this chart needs {least} to {BASELINE_POINTS_MAX} points, better 25 or more");
            self.fault("limits.baseline", message);
        }
        LimitSource::Baseline(points.clamp(least, BASELINE_POINTS_MAX) as usize)
    }

    fn known(&mut self, key: &str, center: f64, sigma: Option<f64>, kind: &ChartKind) -> Known {
        let derived = matches!(kind, ChartKind::Attribute { attribute, .. } if !attribute.is_laney());
        let sigma = match sigma {
            None if derived => 1.0,
            None => {
                self.fault(key, "`sigma` is missing: the standard deviation of one row");
                1.0
            }
            Some(sigma) if sigma.is_finite() && sigma > 0.0 => sigma,
            Some(sigma) => {
                self.fault(key, format!("sigma = {sigma}: a standard deviation is above 0"));
                1.0
            }
        };
        let fits = match kind {
            ChartKind::Attribute { attribute, .. } if attribute.is_binomial() => center > 0.0 && center < 1.0,
            ChartKind::Attribute { .. } => center > 0.0,
            _ => true,
        };
        if !center.is_finite() || !fits {
            self.fault(key, format!("center = {center} does not fit: a fraction for p and np, above 0 for c and u"));
        }
        Known { center, sigma }
    }

    fn limit_table(&mut self, settings: &LimitSettings, kind: &ChartKind) -> LimitSource {
        if kind.is_multivariate() {
            self.fault("limits.table", "limits by tag are for charts of one signal; use group_by with a baseline");
        }
        if matches!(kind, ChartKind::ShortRun { .. }) {
            self.fault(
                "limits.table",
                "a short-run chart has nominal values by tag and one sigma: give a baseline or center and sigma",
            );
        }
        let by = settings.by.clone().unwrap_or_default();
        if by.is_empty() || settings.table.is_empty() {
            self.fault("limits", "limits by tag need `by`, the tag, and a `table` by its text");
        }
        let mut table = BTreeMap::new();
        for (text, line) in &settings.table {
            let known = self.known(&format!("limits.table.{text}"), line.center, line.sigma, kind);
            table.insert(text.as_str().into(), known);
        }
        LimitSource::ByTag(by.as_str().into(), table)
    }

    fn fixed(&mut self, given: &LimitSettings, kind: &ChartKind, signals: usize) -> LimitSource {
        if kind.is_multivariate() {
            return self.fixed_vector(given, signals);
        }
        if matches!(kind, ChartKind::EwmaResidual { lambda: None }) {
            self.fault("lambda", "missing: with fixed limits there is no baseline to fit it to");
        }
        if given.covariance.is_some() {
            self.fault("limits.covariance", "only t2 and mewma have one");
        }
        if let Some(Numbers::One(center)) = given.center {
            LimitSource::Fixed(self.known("limits", center, given.sigma, kind))
        } else {
            self.fault("limits.center", "missing: one number");
            LimitSource::Fixed(Known { center: 0.0, sigma: 1.0 })
        }
    }

    fn fixed_vector(&mut self, given: &LimitSettings, signals: usize) -> LimitSource {
        let center = match &given.center {
            Some(Numbers::Many(center)) if center.len() == signals && center.iter().all(|value| value.is_finite()) => {
                center.clone()
            }
            _ => {
                self.fault("limits.center", "a list with one number a signal");
                vec![0.0; signals]
            }
        };
        let rows = given.covariance.clone().unwrap_or_default();
        if rows.len() != signals || rows.iter().any(|row| row.len() != signals) {
            self.fault("limits.covariance", "a square table with one row and one column a signal");
            return LimitSource::FixedVector(center, Vec::new());
        }
        let flat: Vec<f64> = rows.concat();
        if let Err(column) = Ellipsoid::new(center.clone(), &flat) {
            self.fault(
                "limits.covariance",
                format!("singular or not symmetric at row {}: no signal may follow from the others", column + 1),
            );
        }
        LimitSource::FixedVector(center, flat)
    }

    fn width(&mut self, kind: &ChartKind) -> f64 {
        let default = if matches!(kind, ChartKind::Ewma { .. }) { 2.962 } else { 3.0 };
        self.number("width", self.settings.width, default, [0.1, 20.0], "the width is between 0.1 and 20 sigma")
    }

    fn estimator(&mut self, config: &ChartConfig) -> Estimator {
        let individual = config.is_individual();
        let default = match config.half() {
            _ if individual => Estimator::MovingRange,
            Half::Range => Estimator::Range,
            _ => Estimator::Deviation,
        };
        let estimator = match self.settings.estimator.as_deref() {
            None => return default,
            Some("range") => Estimator::Range,
            Some("deviation") => Estimator::Deviation,
            Some("moving_range") => Estimator::MovingRange,
            Some("median_moving_range") => Estimator::MedianMovingRange,
            Some("pooled") => Estimator::Pooled,
            Some(other) => {
                self.fault("estimator", format!("`{other}`: range, deviation, moving_range, median_moving_range or pooled"));
                return default;
            }
        };
        let moving = matches!(estimator, Estimator::MovingRange | Estimator::MedianMovingRange);
        let attribute = matches!(config.kind, ChartKind::Attribute { .. }) || config.kind.is_multivariate();
        if attribute || moving != individual {
            self.fault("estimator", "single rows use moving_range or median_moving_range, subgroups range, deviation or pooled");
        }
        estimator
    }

    fn rules(&mut self, config: &mut ChartConfig) {
        let dependent = matches!(
            config.kind,
            ChartKind::Ewma { .. }
                | ChartKind::Cusum { .. }
                | ChartKind::MovingAverage { .. }
                | ChartKind::T2 { .. }
                | ChartKind::Mewma { .. }
        );
        let (nelson, western) = match config.kind {
            _ if dependent => {
                (RuleMask::BEYOND_LIMITS.and(RuleMask::NELSON), RuleMask::BEYOND_LIMITS.and(RuleMask::WESTERN_ELECTRIC))
            }
            ChartKind::Attribute { .. } => (RuleMask::NELSON_WITHOUT_ZONES, RuleMask::WESTERN_ELECTRIC_WITHOUT_ZONES),
            _ => (RuleMask::NELSON, RuleMask::WESTERN_ELECTRIC),
        };
        let default = [Rule::Nelson1.name().to_owned()];
        let named = self.settings.rules.as_deref().unwrap_or(&default);
        config.rules = self.rule_names("rules", named, [nelson, western]);
        if dependent {
            if !config.rules.without(RuleMask::BEYOND_LIMITS).is_empty() {
                let message = format!("points of a {} chart depend on each other: only rule 1 holds there", config.type_name());
                self.fault("rules", message);
            }
            // Such a chart has one question only; it is always asked.
            if config.rules.is_empty() {
                config.rules = Rule::Nelson1.mask();
            }
        }
        if matches!(config.kind, ChartKind::Cusum { .. }) {
            config.rules = Rule::CusumUpper.mask().or(Rule::CusumLower.mask());
        }
        config.spread_rules = match (&self.settings.conventions.spread_rules, config.half()) {
            (_, Half::None) => RuleMask::NONE,
            (None, _) => config.rules.and(RuleMask::BEYOND_LIMITS),
            (Some(named), _) => self.rule_names("conventions.spread_rules", named, [RuleMask::NELSON, RuleMask::WESTERN_ELECTRIC]),
        };
    }

    fn rule_names(&mut self, key: &str, names: &[String], [nelson, western]: [RuleMask; 2]) -> RuleMask {
        let mut mask = RuleMask::NONE;
        for name in names {
            mask = mask.or(match (name.as_str(), Rule::parse(name)) {
                ("nelson", _) => nelson,
                ("western_electric", _) => western,
                (_, Some(rule)) => rule.mask(),
                (other, None) => {
                    let message = format!("`{other}` is no rule: nelson_1 to nelson_8, western_electric_1 to _4, or a set's name");
                    self.fault(key, message);
                    RuleMask::NONE
                }
            });
        }
        mask
    }

    fn spec(&mut self, config: &ChartConfig) -> Option<Spec> {
        let SpecSettings { lsl, usl, target } = self.settings.spec.clone()?;
        if [lsl, usl, target].into_iter().flatten().any(|value| !value.is_finite()) {
            self.fault("spec", "specification limits are finite numbers");
        }
        match (lsl, usl) {
            (None, None) => self.fault("spec", "needs `lsl`, `usl` or both"),
            (Some(lsl), Some(usl)) if usl <= lsl => self.fault("spec.usl", format!("usl {usl} is not above lsl {lsl}")),
            _ => {}
        }
        if let Some(target) = target
            && (lsl.is_some_and(|lsl| target < lsl) || usl.is_some_and(|usl| target > usl))
        {
            self.fault("spec.target", format!("target {target} lies outside the specification"));
        }
        let measured = !matches!(config.kind, ChartKind::Attribute { .. }) && !config.kind.is_multivariate();
        let whole = config.subgroup == Subgroup::Row || !config.is_individual();
        if !measured {
            self.fault("spec", "capability is for charts of one measured signal");
        } else if !whole {
            self.fault("spec", "subgroup means as individuals have no variation of rows: use xbar_s for capability");
        }
        Some(Spec { lsl, usl, target })
    }

    /// Keys that this kind of chart does not have.
    fn foreign_keys(&mut self, kind: &ChartKind) {
        let set = self.settings;
        let multivariate = kind.is_multivariate();
        let cusum = matches!(kind, ChartKind::Cusum { .. });
        let ewma = matches!(kind, ChartKind::Ewma { .. } | ChartKind::Mewma { .. });
        let foreign = [
            ("lambda", set.lambda.is_some() && !ewma && !matches!(kind, ChartKind::EwmaResidual { .. })),
            ("variance", set.variance.is_some() && !ewma),
            ("k", set.k.is_some() && !cusum),
            ("h", set.h.is_some() && !cusum),
            ("head_start", set.head_start.is_some() && !cusum),
            ("span", set.span.is_some() && !matches!(kind, ChartKind::MovingAverage { .. })),
            ("size", set.size.is_some() && !matches!(kind, ChartKind::Attribute { .. })),
            ("alpha", set.alpha.is_some() && !multivariate),
            ("ucl", set.ucl.is_some() && !multivariate),
            ("nominal", set.nominal.is_some() && !matches!(kind, ChartKind::ShortRun { .. })),
            ("width", set.width.is_some() && (multivariate || cusum)),
        ];
        for (key, wrong) in foreign {
            if wrong {
                self.fault(key, format!("a chart of type `{}` has no `{key}`: take it out", set.kind));
            }
        }
    }
}

/// Nanoseconds of "250ms", "5s", "12h", "1d"; `None` unless positive and below 292 years.
pub(super) fn duration_ns(text: &str) -> Option<i64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let unit_ns = match unit.trim() {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        "d" => 86_400e9,
        _ => return None,
    };
    let ns = number.parse::<f64>().ok()? * unit_ns;
    (1.0..9.2e18).contains(&ns).then_some(ns as i64)
}
