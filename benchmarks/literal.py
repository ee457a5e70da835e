"""The published algorithm for RMSProp's central flow, as it reads: what `cflows` is compared with.

Each unit of time: the top eigenpairs of P⁻¹H by LOBPCG (Knyazev, 2001), as good as the number type allows; then four
Euler steps, each with all third derivatives along the critical eigenvectors, by nested forward mode, and a
complementarity problem that CVXPY solves.
"""

import cvxpy as cp
import numpy as np
import torch
from torch.func import grad, jvp

SUBSTEPS = 4
CRITICAL = 0.05  # eigenvalues above 2 less this are critical
NEAR = 0.5  # those above 2 less this are followed, and the next


def lobpcg(hvp, p, guess, tol=1e-8, most=30):
    """Eigenpairs of P⁻¹H, as many as there are guesses; the whole basis is multiplied at every iteration."""
    root = p.sqrt()[:, None]
    X, directions = torch.linalg.qr(root * guess).Q, None
    best, stalled, products = np.inf, 0, 0
    for _ in range(most):
        MX = hvp(X / root) / root
        values = (X * MX).sum(0)
        R = MX - X * values
        products += X.shape[1]
        residual = float(R.norm(dim=0).max() / values.abs().max())
        stalled = 0 if residual < 0.7 * best else stalled + 1
        best = min(best, residual)
        if residual <= tol or stalled == 2:
            break
        parts = [X, R] if directions is None else [X, R, directions]
        Q = torch.linalg.qr(torch.cat(parts, 1)).Q
        MQ = hvp(Q / root) / root
        products += Q.shape[1]
        _, S = torch.linalg.eigh(Q.T @ MQ)
        new = Q @ S[:, -X.shape[1] :].flip(1)
        directions = new - X @ (X.T @ new)
        X = new
    return values, X / root, products, residual


def complementary(A, B):
    """SDCP(A, B) as the semidefinite program that it is the optimality condition of."""
    k = len(A)
    X = cp.Variable((k, k), PSD=True)
    values, Q = np.linalg.eigh(B.reshape(k * k, k * k))
    root = (Q * values.clip(0) ** 0.5).T
    scale = abs(A).max() / abs(B).max()  # of X
    problem = cp.Problem(
        cp.Minimize(scale * cp.sum_squares(root @ cp.vec(X, order="C")) / 2 + cp.sum(cp.multiply(A, X)))
    )
    problem.solve()
    return scale * X.value


class Literal:
    """State (w, ν) at time t of RMSProp without ε; `unit` moves on by one unit of time."""

    def __init__(self, f, loss, opt, w, nu, t, k):
        self.f, self.loss, self.opt, self.w, self.nu, self.t = f, loss, opt, w, nu, t
        self.guess = torch.as_tensor(np.random.default_rng(0).standard_normal((f.dim, k + 1)), dtype=w.dtype)
        self.products, self.residual = 0, np.nan
        self.X = np.zeros((0, 0))

    def unit(self):
        f, opt = self.f, self.opt
        hvp = f.linearize(self.w)[2]
        values, self.guess, self.products, self.residual = lobpcg(hvp, opt.preconditioner(self.nu, self.t), self.guess)
        k = int((values > 2 - CRITICAL).sum())
        U, dt = self.guess[:, :k], 1 / SUBSTEPS
        for _ in range(SUBSTEPS):
            p, slope = opt.preconditioner(self.nu, self.t), opt.dp_dnu(self.nu, self.t)
            g = f.value_and_grad(self.w)[1]
            curvature, T = np.zeros((k, k)), self.w.new_zeros(k, k, f.dim)
            for i in range(k):
                for j in range(i + 1):
                    T[i, j] = T[j, i] = grad(self.along(U[:, i], U[:, j]))(self.w)
                    curvature[i, j] = curvature[j, i] = float(self.along(U[:, i], U[:, j])(self.w))
            dw, dnu = -g / p, opt.rate * (g.square() - self.nu)
            dp = slope * dnu + (opt.preconditioner(self.nu, self.t + dt) - p) / dt
            A = 2 * array(U.T @ (p[:, None] * U)) - curvature
            alpha = 2 * array(U.T @ (dp[:, None] * U)) - array(T @ dw)
            third, pairs = T.reshape(k * k, -1), (U[:, :, None] * U[:, None, :]).reshape(-1, k * k).T
            B = third @ (third / p).T / 2 + 8 * opt.rate * pairs @ (slope * p.square() * pairs).T
            self.X = complementary(A + dt * alpha, dt * array(B).reshape(k, k, k, k)) if k else np.zeros((0, 0))
            x = torch.as_tensor(self.X, dtype=p.dtype)
            penalty = torch.einsum("ab,abn->n", x, T) / 2
            excess = 4 * p.square() * ((U @ x) * U).sum(1)
            self.w = self.w - dt * (g + penalty) / p
            self.nu = self.nu + dt * opt.rate * (g.square() + excess - self.nu)
            self.t += dt

    def along(self, u, v):
        """w ↦ uᵀH(w)v by two nested forward derivatives."""
        return lambda w: jvp(lambda x: jvp(self.loss, (x,), (u,))[1], (w,), (v,))[1]


def array(x):
    return x.detach().cpu().numpy().astype(np.float64)
