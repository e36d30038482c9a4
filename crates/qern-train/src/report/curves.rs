//! Which curves a report shows.

use super::chart::{Chart, Series, svg};
use super::{LogLines, Report};

/// The charts that there is something to show in.
pub fn charts(report: &Report) -> Vec<String> {
    let LogLines { steps, evaluations } = &report.log;
    let by_step =
        |value: fn(&super::StepLine) -> f64| steps.iter().map(|line| (line.step as f64, value(line))).collect::<Vec<_>>();
    let losses = by_step(|line| line.loss);
    let smooth = smoothed(&losses);
    let held_out = evaluations.iter().map(|line| (line.step as f64, line.held_out_loss)).collect();
    let mark = report.kept_step.filter(|&kept| steps.last().is_some_and(|last| last.step != kept));
    let mut charts = vec![Chart {
        title: "Loss",
        x_label: "step",
        series: vec![
            line(None, "faint", losses),
            line(Some("training"), "one", smooth),
            Series { has_dots: true, ..line(Some("held out"), "two", held_out) },
        ],
        mark: mark.map(|step| (step as f64, "kept")),
    }];
    let accuracy: Vec<_> =
        evaluations.iter().filter_map(|line| Some((line.step as f64, line.held_out_preference_accuracy?))).collect();
    let single = |title, class, points| Chart { title, x_label: "step", series: vec![line(None, class, points)], mark: None };
    if !accuracy.is_empty() {
        charts.push(single("Held-out preferences shared", "two", accuracy));
    }
    charts.push(single("Norm of the gradients", "one", by_step(|line| line.norm)));
    charts.push(single("Learning rate", "one", by_step(|line| line.rate)));
    charts.push(single("Tokens per second", "one", smoothed(&by_step(|line| line.tokens as f64 / line.seconds.max(1e-9)))));
    charts.iter().filter_map(svg).collect()
}

fn line<'a>(name: Option<&'a str>, class: &'a str, points: Vec<(f64, f64)>) -> Series<'a> {
    Series { name, class, points, has_dots: false }
}

/// An exponential mean over about a twentieth of the points, without the bias of its start.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - (20.0 / points.len().max(1) as f64).min(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mean = |&(x, y): &(f64, f64)| {
        if y.is_finite() {
            sum = sum * keep + y;
            weight = weight * keep + 1.0;
        }
        (x, sum / weight)
    };
    points.iter().map(mean).collect()
}
