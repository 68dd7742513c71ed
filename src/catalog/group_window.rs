//! Spark's names for the window of a `GROUP BY`: `window.start` in the SELECT of `GROUP BY window(ts, '10 minutes')`.
//!
//! A name in a SELECT means a column of the FROM, for DataFusion; so the name gives way to the call that it stands for.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{
        AccessExpr, Expr, Function, GroupByExpr, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, Subscript,
        Value, VisitMut, VisitorMut,
    },
    tokenizer::Span,
};

/// The functions of a `GROUP BY` that mean a window, with the name of their column.
const COLUMNS: [(&str, &str); 5] = [
    ("window", "window"),
    ("session_window", "session_window"),
    ("tumble", "window"),
    ("hop", "window"),
    ("session", "window"),
];

/// Names the windows of a query that groups by one.
pub fn rewrite(query: &mut Query) {
    let Some(mut names) = rewrite_body(&mut query.body) else { return };
    if let Some(OrderByKind::Expressions(order)) = query.order_by.as_mut().map(|order_by| &mut order_by.kind) {
        for expr in order {
            // It never breaks off.
            let _ = expr.visit(&mut names);
        }
    }
}

/// The names of the one SELECT, whose ORDER BY may use them; the SELECTs of a UNION each have their own.
fn rewrite_body(body: &mut SetExpr) -> Option<Names> {
    match body {
        SetExpr::Select(select) => rewrite_select(select),
        SetExpr::SetOperation { left, right, .. } => {
            rewrite_body(left);
            rewrite_body(right);
            None
        }
        _ => None,
    }
}

fn rewrite_select(select: &mut Select) -> Option<Names> {
    let GroupByExpr::Expressions(group, _) = &select.group_by else { return None };
    let (call, column) = group.iter().find_map(|expr| Some((expr.clone(), column_of(expr)?)))?;
    name_columns(select, column);
    let mut names = Names { call, column, depth: 0 };
    for item in &mut select.projection {
        // It never breaks off.
        let _ = item.visit(&mut names);
    }
    for having in select.having.iter_mut().chain(&mut select.qualify) {
        let _ = having.visit(&mut names);
    }
    Some(names)
}

/// The name of the column that a call makes, if it is one of a window.
fn column_of(expr: &Expr) -> Option<&'static str> {
    let Expr::Function(Function { name, over: None, .. }) = expr else { return None };
    let [part] = name.0.as_slice() else { return None };
    let ident = part.as_ident()?;
    COLUMNS.into_iter().find(|(function, _)| ident.value.eq_ignore_ascii_case(function)).map(|(_, column)| column)
}

/// Gives the columns without a name the one that Spark gives them.
fn name_columns(select: &mut Select, column: &str) {
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let name = match expr {
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [first, field] if is(first, column) => field.value.clone(),
                _ => continue,
            },
            Expr::Identifier(name) if is(name, column) => column.to_owned(),
            _ => match column_of(expr) {
                Some(name) => name.to_owned(),
                None => continue,
            },
        };
        let alias = Ident::with_quote('"', name);
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

fn is(ident: &Ident, name: &str) -> bool {
    if ident.quote_style.is_some() { ident.value == name } else { ident.value.eq_ignore_ascii_case(name) }
}

/// Puts the call where its name stands, but in subqueries, which have names of their own.
struct Names {
    call: Expr,
    column: &'static str,
    depth: usize,
}

impl VisitorMut for Names {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.depth > 0 {
            return ControlFlow::Continue(());
        }
        match expr {
            Expr::Identifier(name) if is(name, self.column) => *expr = self.call.clone(),
            Expr::CompoundIdentifier(names) => {
                if let [first, field] = names.as_slice()
                    && is(first, self.column)
                {
                    let field = Value::SingleQuotedString(field.value.to_lowercase()).with_span(Span::empty());
                    let index = AccessExpr::Subscript(Subscript::Index { index: Expr::Value(field) });
                    let root = Box::new(self.call.clone());
                    *expr = Expr::CompoundFieldAccess { root, access_chain: vec![index] };
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
