//! A line chart as inline SVG. Colours come from the page's style by class.

use std::fmt::Write;

/// A chart.
pub struct Chart<'a> {
    /// What is shown.
    pub title: &'a str,
    /// What is on the horizontal axis.
    pub x_label: &'a str,
    /// The lines.
    pub series: Vec<Series<'a>>,
    /// A vertical line, and what it says.
    pub mark: Option<(f64, &'a str)>,
}

/// A line.
pub struct Series<'a> {
    /// Its name in the legend; `None` leaves it out of there.
    pub name: Option<&'a str>,
    /// Its class in the page's style.
    pub class: &'a str,
    /// In order of x.
    pub points: Vec<(f64, f64)>,
    /// Whether every point is marked.
    pub has_dots: bool,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 38.0;
/// More points than pixels show nothing more.
const MAX_POINTS: usize = 600;

/// The chart; `None` when no series has a point.
pub fn svg(chart: &Chart) -> Option<String> {
    let points = || chart.series.iter().flat_map(|series| &series.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    points().next()?;
    let (x_min, x_max) = bounds(points().map(|point| point.0));
    let (y_min, y_max) = bounds(points().map(|point| point.1));
    let y_ticks = ticks(y_min, y_max, 5);
    let x_ticks = ticks(x_min, x_max, 6);
    let (y_min, y_max) = (y_min.min(y_ticks[0]), y_max.max(y_ticks[y_ticks.len() - 1]));
    let x_of = |x: f64| LEFT + (x - x_min) / (x_max - x_min) * (WIDTH - LEFT - RIGHT);
    let y_of = |y: f64| HEIGHT - BOTTOM - (y - y_min) / (y_max - y_min) * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\"><text class=\"title\" x=\"{LEFT}\" y=\"16\">{title}</text>",
        title = chart.title
    );
    for &tick in &y_ticks {
        let y = y_of(tick);
        _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 7.0,
            y + 4.0,
            number(tick)
        );
    }
    for &tick in x_ticks.iter().filter(|tick| (x_min..=x_max).contains(*tick)) {
        let (x, y) = (x_of(tick), HEIGHT - BOTTOM + 16.0);
        _ = write!(svg, "<text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", number(tick));
    }
    _ = write!(
        svg,
        "<text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 6.0,
        chart.x_label
    );
    if let Some((x, label)) = chart.mark.filter(|(x, _)| (x_min..=x_max).contains(x)) {
        let x = x_of(x);
        let (anchor, shift) = if x > WIDTH * 0.7 { ("end", -5.0) } else { ("start", 5.0) };
        _ = write!(
            svg,
            "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text class=\"tick\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
            HEIGHT - BOTTOM,
            x + shift,
            TOP + 10.0
        );
    }
    for series in &chart.series {
        let points = thinned(&series.points);
        let path: String = points
            .iter()
            .enumerate()
            .map(|(index, &(x, y))| format!("{}{:.1} {:.1}", if index == 0 { 'M' } else { 'L' }, x_of(x), y_of(y)))
            .collect();
        _ = write!(svg, "<path class=\"line {}\" d=\"{path}\"/>", series.class);
        // A single point has no line.
        if series.has_dots || points.len() == 1 {
            for (x, y) in points {
                _ = write!(svg, "<circle class=\"dot {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>", series.class, x_of(x), y_of(y));
            }
        }
    }
    svg.push_str(&legend(&chart.series));
    svg.push_str("</svg>");
    Some(svg)
}

/// Names at the top right, each behind a stroke of its line.
fn legend(series: &[Series]) -> String {
    let mut legend = String::new();
    let mut x = WIDTH - RIGHT;
    for series in series.iter().rev() {
        let Some(name) = series.name else { continue };
        x -= 7.0 * name.chars().count() as f64 + 4.0;
        _ = write!(
            legend,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"16\">{name}</text><path class=\"line {}\" d=\"M{:.1} 12h16\"/>",
            series.class,
            x - 22.0
        );
        x -= 36.0;
    }
    legend
}

/// The least and the greatest, apart.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (min, max) = values.fold((f64::MAX, f64::MIN), |(min, max), value| (min.min(value), max.max(value)));
    if max - min > 1e-12 * max.abs() {
        (min, max)
    } else {
        let pad = if max == 0.0 { 1.0 } else { max.abs() * 0.5 };
        (min - pad, max + pad)
    }
}

/// About `num` round numbers from one below `min` to one above `max`.
fn ticks(min: f64, max: f64, num: usize) -> Vec<f64> {
    let rough = (max - min) / num as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    let first = (min / step).floor();
    let last = (max / step).ceil();
    (0..=(last - first).min(50.0) as usize).map(|index| (first + index as f64) * step).collect()
}

/// A tick's text.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e6).contains(&size) => format!("{value:.0e}"),
        size if size >= 10_000.0 => format!("{:.0}k", value / 1000.0),
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').into()
        }
    }
}

/// At most `MAX_POINTS` of the points, the last among them; those that are not finite left out.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<_> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let stride = finite.len().div_ceil(MAX_POINTS).max(1);
    let last = finite.len().saturating_sub(1);
    finite.iter().enumerate().filter(|(index, _)| (last - index) % stride == 0).map(|(_, &point)| point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_around_the_values() {
        let check = |min, max, expected: &[f64]| {
            let ticks = ticks(min, max, 5);
            assert!(ticks.len() == expected.len() && ticks.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{ticks:?}");
        };
        check(0.0, 10.0, &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        check(0.3, 2.9, &[0.0, 1.0, 2.0, 3.0]);
        check(-0.4, 0.1, &[-0.4, -0.3, -0.2, -0.1, 0.0, 0.1]);
    }

    #[test]
    fn any_values_make_a_chart_and_none_make_none() {
        let chart = |points: Vec<(f64, f64)>| {
            svg(&Chart {
                title: "t",
                x_label: "x",
                series: vec![Series { name: Some("n"), class: "a", points, has_dots: false }],
                mark: Some((1.0, "m")),
            })
        };
        assert_eq!(chart(vec![]), None);
        assert_eq!(chart(vec![(0.0, f64::NAN)]), None);
        for points in [vec![(0.0, 0.0)], vec![(1.0, 2.0), (1.0, 2.0)], vec![(0.0, 1e30), (1.0, f64::INFINITY), (2.0, -1e30)]] {
            let svg = chart(points).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let many = chart((0..10_000).map(|i| (f64::from(i), 1.0)).collect()).unwrap();
        assert!(many.matches('L').count() <= MAX_POINTS);
    }
}
