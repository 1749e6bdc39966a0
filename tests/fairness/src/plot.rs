//! Plots as SVG. Colours are Okabe and Ito's, which people with any colour vision can tell apart; axes have units, and
//! legends stand beside the plot. Nothing is computed here.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

/// Okabe and Ito's colours, darkest first; yellow, which is hard to see on white, is last.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
    RGBColor(200, 190, 0),
];
const GREY: RGBColor = RGBColor(90, 90, 90);
const FONT: (&str, u32) = ("sans-serif", 13);
const SIZE: (u32, u32) = (680, 340);
/// What a legend needs on the right.
const LEGEND: u32 = 130;

/// The colour of the line or bar with this number.
fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// A line or a set of points with its name.
#[derive(Clone, Debug)]
pub struct Line {
    /// For the legend.
    pub name: String,
    /// Where it goes.
    pub points: Vec<(f64, f64)>,
}

/// What an axis shows.
#[derive(Clone, Debug)]
pub struct Axis {
    /// With its unit.
    pub title: String,
    /// Whether each step multiplies.
    pub logarithmic: bool,
    /// The range; from the data where there is none.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// An axis in even steps.
    pub fn linear(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            logarithmic: false,
            range: None,
        }
    }

    /// An axis in powers of ten.
    pub fn logarithmic(title: &str) -> Self {
        Self {
            logarithmic: true,
            ..Self::linear(title)
        }
    }

    /// With this range.
    pub fn between(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    fn bounds(&self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        if let Some(range) = self.range {
            return range;
        }
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            return (0.1, 1.0);
        }
        if self.logarithmic {
            let low = low.max(1e-6).log10().floor();
            let high = high.max(1e-6).log10().ceil();
            return (10f64.powf(low), 10f64.powf(high.max(low + 1.0)));
        }
        (low.min(0.0), if high > 0.0 { high * 1.05 } else { 1.0 })
    }
}

/// Draws into a string.
fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let drawn = root
            .fill(&WHITE)
            .map_err(|error| error.to_string())
            .and_then(|()| draw(&root))
            .and_then(|()| root.present().map_err(|error| error.to_string()));
        drawn.map_err(|error| anyhow!("a plot cannot be drawn: {error}"))?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), String>;

/// The title above, the legend on the right, and what is left for the plot.
fn frame<'a>(
    root: &Area<'a>,
    title: &str,
    names: &[(String, RGBColor)],
) -> std::result::Result<Area<'a>, String> {
    let (width, height) = root.dim_in_pixel();
    let style = ("sans-serif", 15).into_font().color(&BLACK);
    root.draw(&Text::new(title.to_owned(), (12, 8), style))
        .map_err(|error| error.to_string())?;
    for (index, (name, colour)) in names.iter().enumerate() {
        let y = 44 + 20 * index as i32;
        let x = (width - LEGEND) as i32 + 6;
        // A colour that comes again is a dashed line.
        let parts: &[(i32, i32)] = match index < COLOURS.len() {
            true => &[(0, 14)],
            false => &[(0, 6), (9, 15)],
        };
        let swatch = parts.iter().try_for_each(|(from, to)| {
            let corners = [(x + from, y), (x + to, y + 12)];
            root.draw(&Rectangle::new(corners, colour.filled()))
        });
        swatch
            .and_then(|()| {
                let style = FONT.into_font().color(&BLACK);
                root.draw(&Text::new(name.clone(), (x + 20, y), style))
            })
            .map_err(|error| error.to_string())?;
    }
    let right = if names.is_empty() { 16 } else { LEGEND };
    Ok(root.clone().shrink((0, 30), (width - right, height - 32)))
}

/// Lines over an axis, with a legend.
///
/// # Errors
///
/// If it cannot be drawn.
pub fn lines(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> Result<String> {
    let xs = x.bounds(
        lines
            .iter()
            .flat_map(|line| line.points.iter().map(|p| p.0)),
    );
    let ys = y.bounds(
        lines
            .iter()
            .flat_map(|line| line.points.iter().map(|p| p.1)),
    );
    svg(SIZE, |root| {
        let names: Vec<_> = lines
            .iter()
            .enumerate()
            .map(|(index, line)| (line.name.clone(), colour(index)))
            .collect();
        let area = frame(root, title, &names)?;
        let (xr, yr) = (xs.0..xs.1, ys.0..ys.1);
        match (x.logarithmic, y.logarithmic) {
            (false, false) => plot_lines(&area, xr, yr, x, y, lines),
            (true, false) => plot_lines(&area, xr.log_scale(), yr, x, y, lines),
            (false, true) => plot_lines(&area, xr, yr.log_scale(), x, y, lines),
            (true, true) => plot_lines(&area, xr.log_scale(), yr.log_scale(), x, y, lines),
        }
    })
}

fn plot_lines<X, Y>(area: &Area<'_>, xs: X, ys: Y, x: &Axis, y: &Axis, lines: &[Line]) -> Drawn
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .set_label_area_size(LabelAreaPosition::Left, 64)
        .set_label_area_size(LabelAreaPosition::Bottom, 44)
        .margin_right(14)
        .margin_top(6)
        .build_cartesian_2d(xs, ys)
        .map_err(|error| error.to_string())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(GREY)
        .label_style(FONT)
        .axis_desc_style(FONT)
        .x_desc(x.title.clone())
        .y_desc(y.title.clone())
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| number(*value))
        .draw()
        .map_err(|error| error.to_string())?;
    for (index, line) in lines.iter().enumerate() {
        let style = colour(index).stroke_width(2);
        // A colour that comes again is dashed.
        if index < COLOURS.len() {
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style))
        } else {
            chart.draw_series(DashedLineSeries::new(
                line.points.iter().copied(),
                6,
                5,
                style,
            ))
        }
        .map_err(|error| error.to_string())?;
        if line.points.len() <= 12 {
            let points = line.points.iter();
            chart
                .draw_series(points.map(|&at| Circle::new(at, 3, colour(index).filled())))
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// A number on an axis, no longer than it must be.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let size = value.abs();
    if size >= 10_000.0 {
        let thousands = value / 1e3;
        return if size >= 1e6 {
            format!("{} M", value / 1e6)
        } else {
            format!("{thousands} k")
        };
    }
    let digits = if size >= 10.0 {
        0
    } else if size >= 1.0 {
        1
    } else {
        3
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

type Plane<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// Rows over an axis: row n from the top is at `count` - n - 1 to `count` - n.
fn plane<'a, 'b>(
    area: &'a Area<'b>,
    axis: &str,
    range: std::ops::Range<f64>,
    count: usize,
) -> std::result::Result<Plane<'a, 'b>, String> {
    let mut plane = ChartBuilder::on(area)
        .set_label_area_size(LabelAreaPosition::Left, 96)
        .set_label_area_size(LabelAreaPosition::Bottom, 42)
        .margin_right(14)
        .build_cartesian_2d(range, 0.0..count as f64)
        .map_err(|error| error.to_string())?;
    plane
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(GREY)
        .label_style(FONT)
        .axis_desc_style(FONT)
        .x_desc(axis)
        .x_label_formatter(&|value| number(*value))
        .draw()
        .map_err(|error| error.to_string())?;
    Ok(plane)
}

/// A colour for each name.
fn legend(names: &[String]) -> Vec<(String, RGBColor)> {
    let names = names.iter().enumerate();
    names
        .map(|(index, name)| (name.clone(), colour(index)))
        .collect()
}

/// A bar for each row, of parts that lie one after the other, 0 to 1; with a tick where each part should end.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The row's name.
    pub name: String,
    /// What each had, and what it should have had.
    pub parts: Vec<(f64, f64)>,
}

/// Rows of parts of a whole, one colour each, in percent.
///
/// # Errors
///
/// If it cannot be drawn.
pub fn stacks(title: &str, axis: &str, names: &[String], rows: &[Stack]) -> Result<String> {
    let height = 34 * rows.len() as u32 + 100;
    svg((SIZE.0, height), |root| {
        let area = frame(root, title, &legend(names))?;
        let count = rows.len() as f64;
        let mut chart = plane(&area, axis, 0.0..100.0, rows.len())?;
        for (index, row) in rows.iter().enumerate() {
            let y = count - 1.0 - index as f64;
            let (mut at, mut should) = (0.0, 0.0);
            let mut ticks = Vec::new();
            let mut bars = Vec::new();
            for (part, &(had, fair)) in row.parts.iter().enumerate() {
                let (from, to) = (at * 100.0, (at + had) * 100.0);
                bars.push(Rectangle::new(
                    [(from, y + 0.2), (to, y + 0.8)],
                    colour(part).filled(),
                ));
                at += had;
                should += fair;
                ticks.push(PathElement::new(
                    [(should * 100.0, y + 0.06), (should * 100.0, y + 0.94)],
                    BLACK.stroke_width(2),
                ));
            }
            chart.draw_series(bars).map_err(|error| error.to_string())?;
            chart
                .draw_series(ticks)
                .map_err(|error| error.to_string())?;
            label(&area, &chart, &row.name, y + 0.5)?;
        }
        Ok(())
    })
}

/// A row's name left of the axis.
fn label(area: &Area<'_>, chart: &Plane<'_, '_>, name: &str, y: f64) -> Drawn {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    let (x, y) = chart.backend_coord(&(0.0, y));
    let (left, top) = area.get_base_pixel();
    let style = FONT
        .into_font()
        .color(&BLACK)
        .pos(Pos::new(HPos::Right, VPos::Center));
    area.draw(&Text::new(name.to_owned(), (x - left - 8, y - top), style))
        .map_err(|error| error.to_string())
}

/// Bars in groups: a group for each row, a colour for each name.
///
/// # Errors
///
/// If it cannot be drawn.
pub fn bars(
    title: &str,
    axis: &Axis,
    names: &[String],
    rows: &[(String, Vec<Option<f64>>)],
) -> Result<String> {
    let height = 16 * (names.len() as u32 + 1) * rows.len() as u32 + 100;
    let values = rows.iter().flat_map(|(_, values)| values.iter().flatten());
    let (low, high) = axis.bounds(values.copied());
    svg((SIZE.0, height), |root| {
        let area = frame(root, title, &legend(names))?;
        let count = rows.len() as f64;
        let mut chart = plane(&area, &axis.title, low..high, rows.len())?;
        let each = 1.0 / (names.len() as f64 + 1.0);
        for (index, (name, values)) in rows.iter().enumerate() {
            let top = count - index as f64 - each / 2.0;
            let bars = values.iter().enumerate().filter_map(|(bar, value)| {
                let y = top - each * bar as f64;
                let corners = [(low, y - each * 0.9), ((*value)?.clamp(low, high), y)];
                Some(Rectangle::new(corners, colour(bar).filled()))
            });
            chart.draw_series(bars).map_err(|error| error.to_string())?;
            label(&area, &chart, name, count - index as f64 - 0.5)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (1.0, "1"),
            (2.5, "2.5"),
            (150.0, "150"),
            (20_000.0, "20 k"),
            (3e6, "3 M"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn ranges_come_from_the_data_or_are_given() {
        let axis = Axis::linear("x");
        assert_eq!(axis.bounds([2.0, 10.0].into_iter()), (0.0, 10.5));
        assert_eq!(axis.bounds([].into_iter()), (0.1, 1.0));
        let log = Axis::logarithmic("x");
        assert_eq!(log.bounds([3.0, 700.0].into_iter()), (1.0, 1000.0));
        assert_eq!(log.between(1.0, 2.0).bounds([9.0].into_iter()), (1.0, 2.0));
    }

    #[test]
    fn every_kind_is_drawn_whatever_the_data() {
        let line = |points: Vec<(f64, f64)>| Line {
            name: "<a>".into(),
            points,
        };
        let linear = Axis::linear("time, s");
        for data in [vec![], vec![(0.0, 0.0)], vec![(1.0, f64::NAN), (2.0, 3.0)]] {
            let drawn = lines("t", &linear, &Axis::logarithmic("y"), &[line(data)]).unwrap();
            assert!(drawn.contains("&lt;a&gt;") && drawn.contains("time, s"));
        }
        let stack = Stack {
            name: "fair".into(),
            parts: vec![(0.5, 0.4), (0.5, 0.6)],
        };
        let names = ["a".to_owned(), "b".to_owned()];
        assert!(stacks("t", "x", &names, &[stack]).unwrap().contains("fair"));
        let rows = [("row".to_owned(), vec![Some(1.0), None])];
        assert!(bars("t", &linear, &names, &rows).unwrap().contains("row"));
    }
}
