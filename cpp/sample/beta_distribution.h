// The quantile function of the beta distribution, for the sigmas that are spread by it.
#pragma once

namespace swap {

// The x in 0..1 whose regularised incomplete beta function I_x(a, b) is p.
double beta_quantile(double p, double a, double b);

}  // namespace swap
