// What a chart shows of a curve that the API answered: the points that count, superseded ones, the band
// from lowest to highest of a downsampled curve, and the smoothed curve.

export class Curve {
  constructor(answer) {
    const words = new Map(answer.flags.map((flag) => [flag.index, flag.value]));
    const points = (segments) => {
      const at = segments.flatMap(({ first, count }) => Array.from({ length: count }, (_, place) => first + place));
      const column = (name) => at.map((index) => answer[name][index]);
      return { x: column("x"), y: column("y"), step: column("step"), words: at.map((index) => words.get(index)) };
    };
    this.attempt = answer.attempt;
    this.kept = points(answer.segments.filter((segment) => !segment.superseded));
    this.superseded = answer.segments.filter((segment) => segment.superseded).map((segment) => points([segment]));
    this.blocks = answer.blocks && ascends(answer.blocks.means) ? answer.blocks : null;
    this.overview = answer.overview;
  }

  get isEmpty() {
    return !this.kept.x.length && !this.superseded.length;
  }

  // The points under the cursor.
  get main() {
    return this.kept.x.length ? this.kept : this.superseded.at(-1);
  }

  // The line of a downsampled curve: the mean of each block, in its middle.
  means() {
    const { start, end, mean } = this.blocks.means;
    return { x: start.map((from, index) => (from + end[index]) / 2), y: mean };
  }

  // A polygon around the lowest and highest values of all blocks; in a log scale above `floor`.
  band(floor = -Infinity) {
    const { means, low, high } = this.blocks;
    const x = [];
    const y = [];
    let from = 0;
    const close = (to) => {
      for (let index = from; index < to; index++) {
        x.push(means.start[index], means.end[index]);
        y.push(Math.max(high[index], floor), Math.max(high[index], floor));
      }
      for (let index = to - 1; index >= from; index--) {
        x.push(means.end[index], means.start[index]);
        y.push(Math.max(low[index], floor), Math.max(low[index], floor));
      }
      x.push(null);
      y.push(null);
    };
    for (let index = 0; index <= low.length; index++) {
      if (index < low.length && low[index] !== null) continue;
      if (index > from) close(index);
      from = index + 1;
    }
    return { x, y };
  }

  // The smoothed curve between the ends of `range` (null: all of it). It is made of the whole curve.
  smoothed(weight, range) {
    const { end, mean, count, size } = this.overview;
    const line = { x: end, y: smooth(mean, count, size, weight) };
    return range ? clip(line, range) : line;
  }

  // The lowest and highest value that counts, of those above `floor`.
  extent(floor = -Infinity) {
    const values = this.kept.y.filter((value) => value !== null && value > floor);
    return values.length ? [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] : null;
  }
}

// Exponential moving average of the means of blocks of `size` points, without the pull towards zero at
// its start. A block with fewer values counts less; gaps stay gaps.
export function smooth(means, counts, size, weight) {
  let sum = 0;
  let mass = 0;
  return means.map((mean, index) => {
    if (mean === null) return null;
    const rest = weight ** (counts[index] / size);
    sum = rest * sum + (1 - rest) * mean;
    mass = rest * mass + (1 - rest);
    return sum / mass;
  });
}

// The part of a line between both ends of `range`, which it reaches if it crosses them.
function clip({ x, y }, [from, to]) {
  const line = { x: [], y: [] };
  const add = (at, value) => {
    line.x.push(at);
    line.y.push(value);
  };
  const cross = (index, at) => {
    const [x0, x1] = [x[index - 1], x[index]];
    const isCrossed = index > 0 && x0 < at && at < x1 && y[index - 1] !== null && y[index] !== null;
    if (isCrossed) add(at, y[index - 1] + ((y[index] - y[index - 1]) * (at - x0)) / (x1 - x0));
  };
  x.forEach((at, index) => {
    cross(index, from);
    cross(index, to);
    if (at >= from && at <= to) add(at, y[index]);
  });
  return line;
}

function ascends({ start, end }) {
  return start.every((from, index) => index === 0 || from >= end[index - 1]);
}
