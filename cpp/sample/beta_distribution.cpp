#include "sample/beta_distribution.h"

#include <cmath>

namespace swap {
namespace {

// I_x(a, b) by its continued fraction, https://dlmf.nist.gov/8.17.E22, with Lentz's method.
double incomplete_beta(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  // The fraction converges fast below the mean only.
  if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(1 - x, b, a);
  constexpr double kTiny = 1e-300;
  double c = 1, d = 0, fraction = 1;
  for (int i = 0; i < 300; ++i) {
    const int m = i / 2;
    double term = 1;
    if (i > 0) {
      term = i % 2 ? -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
                   : m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    }
    d = 1 + term * d;
    if (d == 0) d = kTiny;
    d = 1 / d;
    c = 1 + term / c;
    if (c == 0) c = kTiny;
    fraction *= c * d;
    if (i > 0 && std::abs(1 - c * d) < 1e-16) break;
  }
  const double beta = std::tgamma(a) * std::tgamma(b) / std::tgamma(a + b);
  return std::pow(x, a) * std::pow(1 - x, b) / (a * beta) * (fraction - 1);
}

}  // namespace

double beta_quantile(double p, double a, double b) {
  if (p <= 0) return 0;
  if (p >= 1) return 1;
  double low = 0, high = 1;
  for (int i = 0; i < 64; ++i) {
    const double middle = (low + high) / 2;
    (incomplete_beta(middle, a, b) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

}  // namespace swap
