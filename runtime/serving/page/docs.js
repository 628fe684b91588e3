// Lists the routes of openapi.json with their parameters. Pages that draw OpenAPI load scripts from elsewhere; this one works offline.

const cell = (row, text, tag = "td") => Object.assign(row.appendChild(document.createElement(tag)), { textContent: text });

function table(headings, rows) {
  const element = document.createElement("table");
  const head = element.createTHead().insertRow();
  for (const heading of headings) cell(head, heading, "th");
  const body = element.createTBody();
  for (const values of rows) {
    const row = body.insertRow();
    for (const value of values) cell(row, value);
  }
  return element;
}

function typeOf(schema = {}) {
  if (schema.anyOf) return schema.anyOf.map(typeOf).filter((name) => name !== "null").join(" or ");
  const bounds = [schema.minimum, schema.maximum].some((n) => n !== undefined) ? ` ${schema.minimum ?? ""} to ${schema.maximum ?? ""}` : "";
  return schema.type === "array" ? `list of ${typeOf(schema.items)}` : `${schema.type ?? "any"}${bounds}`;
}

function section(method, path, route) {
  const element = document.createElement("section");
  const title = element.appendChild(document.createElement("h2"));
  cell(title, `${method.toUpperCase()} ${path}`, "code");
  title.append(route.summary ?? "");
  cell(element, route.description ?? "", "p");
  const parameters = (route.parameters ?? []).map((p) => [p.name, p.in, typeOf(p.schema)]);
  if (parameters.length) element.append(table(["parameter", "in", "type"], parameters));
  const fields = Object.entries(route.requestBody?.content?.["application/json"]?.schema?.properties ?? {});
  if (fields.length) element.append(table(["field", "type", "meaning", "default"], fields.map(([name, field]) => [name, typeOf(field), field.description ?? "", field.default == null ? "" : JSON.stringify(field.default)])));
  return element;
}

const document_ = await (await fetch("/openapi.json")).json();
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, route] of Object.entries(methods)) window.routes.append(section(method, path, route));
}
